"""What to do about errors that are the machine's: of its disks, memory, permissions and limits."""

from __future__ import annotations

import errno
import os
import pwd
import resource
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress


def remedy(error: BaseException | None, folders: Iterable[object] = ()) -> str:
    """Say what to do about an error of the machine; empty if it is another error.

    Args:
        error: Error of Python or of a library.
        folders: Folders that were written to; the one with the fullest disk is named.
    """
    if isinstance(error, MemoryError):
        return "use a machine with more memory (free -g), or keep fewer rows in it (memory_gb)"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _MORE_PROCESSES
    if not isinstance(error, OSError):
        return ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free disk space (df, nightbid data prune){_fullest(folders)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"let the user {_user()} use it (ls -l, chown, chmod)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"allow more than {limit} open files (ulimit -n)"
    return _OTHERS.get(error.errno or 0, "")


_MORE_PROCESSES = "allow more processes and threads (ulimit -u, the limit of the container)"
_OTHERS = {
    errno.EAGAIN: _MORE_PROCESSES,
    errno.ENOMEM: "use a machine with more memory (free -g), or end other programs",
    errno.EROFS: "make the file system writable (mount), or use a folder on another one",
    errno.EIO: "check the disk or the network share (dmesg)",
    errno.ESTALE: "check the network share (mount)",
}


def _fullest(folders: Iterable[object]) -> str:
    def spaces() -> Iterator[tuple[int, str]]:
        for folder in folders:
            with suppress(OSError):
                yield shutil.disk_usage(str(folder)).free, str(folder)

    free, folder = min(spaces(), default=(0, ""))
    return (
        f"; the fullest disk is that of {folder}, with {free / 1e6:,.1f} MB left" if folder else ""
    )


def _user() -> str:
    with suppress(KeyError):
        return repr(pwd.getpwuid(os.geteuid()).pw_name)
    return str(os.geteuid())
