"""Errors of the machine say what to do about them."""

from __future__ import annotations

import errno
import os

import pytest
from nightbid.shortages import remedy


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, ""), "free disk space (df, nightbid data prune)"),
        (PermissionError(errno.EACCES, "", "/logs"), "let the user "),
        (OSError(errno.EMFILE, ""), "open files (ulimit -n)"),
        (BlockingIOError(errno.EAGAIN, ""), "more processes and threads (ulimit -u"),
        (RuntimeError("can't start new thread"), "more processes and threads (ulimit -u"),
        (OSError(errno.EROFS, ""), "make the file system writable"),
        (MemoryError(), "a machine with more memory"),
    ],
)
def test_what_helps_is_said(error, words):
    assert words in remedy(error)


def test_the_fullest_disk_is_named(tmp_path):
    text = remedy(OSError(errno.ENOSPC, ""), ["gs://bucket", tmp_path / "none", tmp_path])
    assert f"; the fullest disk is that of {tmp_path}, with " in text


def test_other_errors_have_no_remedy():
    assert remedy(ValueError("no")) == ""
    assert remedy(RuntimeError("another")) == ""
    assert remedy(OSError(errno.ENOENT, os.strerror(errno.ENOENT))) == ""
