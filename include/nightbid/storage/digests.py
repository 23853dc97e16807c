"""Digests of large files outside the workspace, kept on this machine.

A file of logs is read once for its digest. The digest is kept with what the file system says of the
file; a file that was touched since is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from nightbid.storage.verify import file_digest
from nightbid.storage.workspace import write_atomically

SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again without a later time of change."""


def kept_digest(path: Path, cache: Path) -> str:
    """sha256 of a file's bytes, hexadecimal.

    Args:
        path: the file.
        cache: folder in which digests are kept; safe to delete.

    Raises:
        OSError: the file cannot be read.
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
