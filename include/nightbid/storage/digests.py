"""Cached digests of large files outside the workspace.

A log file is read once for its digest, which is cached with the file's metadata; a file that has
been touched since is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from nightbid.storage.files import write_atomically
from nightbid.storage.verify import file_digest

SETTLED_SECONDS = 2.0
"""Minimum age of a change in seconds: newer files may change again with the same time."""


def kept_digest(path: Path, cache: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal.

    Args:
        path: The file.
        cache: Folder of cached digests; safe to delete.

    Raises:
        OSError: The file cannot be read.
    """
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    note = cache / "digests" / f"{name}.json"
    state = os.stat(path)
    identity = [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    try:
        known = json.loads(note.read_text())
        if known["file"] == identity:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = file_digest(path)
    if time.time() - max(state.st_mtime, state.st_ctime) > SETTLED_SECONDS:
        write_atomically(note, json.dumps({"file": identity, "digest": digest}))
    return digest
