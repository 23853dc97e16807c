"""Verifies the files of an output against its manifest.

Every output of a stage is verified before it is used. A file's digest is computed once per process
and cached by the file's metadata (device, inode, size, times of change); a file that has been
touched since is read again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nightbid.counts import counted
from nightbid.errors import CorruptDataError
from nightbid.night.manifest import FileEntry

THREADS = min(4, os.cpu_count() or 1)
WORTH_THREADS = 8 << 20
"""Minimum number of bytes to digest in threads; below, starting them takes longer."""
DATA_FILES = (".parquet", ".arrow")
"""Extensions of row files; one that is not in the manifest is an error, since it would be read."""

FileIdentity = tuple[int, int, int, int, int]
_digests: dict[FileIdentity, str] = {}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal; cached while the file is unchanged."""
    state = _identity(os.stat(path))
    # By inode, not by name, since an output is renamed when it is committed.
    known = _digests.get(state)
    if known is not None:
        return known
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if _identity(os.stat(path)) == state:
        _digests[state] = digest
    return digest


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a finished file, or copy it if the file system has no hard links.

    A cached digest of the file is valid for the link too.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    before = os.stat(source)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        return
    after = os.stat(target)
    known = _digests.get(_identity(before))
    # A link only changes the inode's time of change.
    if known and (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        _digests[_identity(after)] = known


def inventory(folder: Path, volatile: tuple[str, ...] = ()) -> tuple[FileEntry, ...]:
    """List the files of an output, with their sizes and digests.

    Args:
        folder: Local folder of the output.
        volatile: Relative paths, or folders (ending in /), whose bytes differ between equal runs.
    """
    entries = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        relative = path.relative_to(folder).as_posix()
        loose = any(
            relative == name or (name.endswith("/") and relative.startswith(name))
            for name in volatile
        )
        digest = file_digest(path)
        entries.append(
            FileEntry(
                path=relative,
                size=path.stat().st_size,
                digest="" if loose else digest,
                volatile_digest=digest if loose else "",
            )
        )
    return tuple(entries)


def faults_of(folder: Path, files: Iterable[FileEntry]) -> list[str]:
    """List the files of an output that differ from the manifest, as messages; empty if none does.

    Args:
        folder: Local folder of the output.
        files: Files to verify.
    """
    faults, present = [], []
    for entry in files:
        path = folder / entry.path
        try:
            size = path.stat().st_size
        except OSError:
            faults.append(f"{entry.path} is missing")
            continue
        if size != entry.size:
            faults.append(
                f"{entry.path} has {counted(size, 'byte')}, the manifest says {entry.size:,}"
            )
        elif entry.digest or entry.volatile_digest:
            present.append(entry)
    paths = [folder / entry.path for entry in present]
    if len(paths) > 1 and sum(entry.size for entry in present) > WORTH_THREADS:
        with ThreadPoolExecutor(THREADS) as pool:
            digests = list(pool.map(_digest_or_none, paths))
    else:
        digests = [_digest_or_none(path) for path in paths]
    for entry, digest in zip(present, digests, strict=True):
        if digest != (entry.digest or entry.volatile_digest):
            faults.append(f"{entry.path} does not match its digest in the manifest")
    return faults


def strangers(folder: Path, files: Sequence[FileEntry]) -> list[str]:
    """List row files in an output that its manifest does not name, as messages."""
    named = {entry.path for entry in files}
    messages = []
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(DATA_FILES) and not name.startswith("."):
                path = Path(parent, name).relative_to(folder).as_posix()
                if path not in named:
                    messages.append(f"{path} is not in the manifest")
    return messages


def verify(folder: Path, files: Sequence[FileEntry], where: str, hint: str) -> None:
    """Raise an error if files of an output are not those of its manifest.

    Raises:
        CorruptDataError: A file is missing or has other bytes.
    """
    faults = faults_of(folder, files)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CorruptDataError(f"{faults[0]}{more}", where=where, hint=hint)


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def _identity(state: os.stat_result) -> FileIdentity:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
