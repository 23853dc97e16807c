"""Opens text files: compression by content, and quotation marks after backslashes."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa

HEAD_BYTES = 512
"""Bytes that show how a file is compressed and what it begins with."""
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}


def compression_of(start: bytes) -> str | None:
    """Return how a file is compressed, from its first bytes; None if it is not.

    Suffixes are not reliable: downloads unpack files and keep their names, and some jobs compress
    files without naming them so.
    """
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def is_compressed(path: Path) -> bool:
    """Return whether a local file is compressed."""
    return _compression(path) is not None


def open_text(path: Path) -> pa.NativeFile:
    """Open a local file, and decompress it as it is read."""
    return pa.input_stream(str(path), compression=_compression(path))


def _compression(path: Path) -> str | None:
    with open(path, "rb") as stream:
        return compression_of(stream.read(4))


def first_bytes(start: bytes) -> bytes:
    """Decompress the first bytes of a file of type gzip; those of other files are unchanged."""
    if compression_of(start) != "gzip":
        return start
    try:
        return zlib.decompressobj(31).decompress(start, 4)
    except zlib.error:
        return b""


def backslash_before_quote(delimiter: str) -> re.Pattern[bytes]:
    r"""Build a pattern of quoted fields that contain `\"` before more text.

    Doubled quotation marks never lead to such fields; a field that ends with a backslash does not
    match.
    """
    mark = re.escape(delimiter.encode())
    return re.compile(
        rb'[\n%b](?P<field>"(?:[^"\\\n]|""|\\[^"\n])*\\")(?=[^"\r\n%b])' % (mark, mark)
    )


class QuotedText:
    r"""File object of quoted fields, with `\"` rewritten as `""` or searched for.

    Args:
        stream: Bytes of the file, UTF-8.
        delimiter: Field separator.
        backslash: Whether a quotation mark within a field follows a backslash.
    """

    def __init__(self, stream: Any, delimiter: str, *, backslash: bool) -> None:
        self._stream, self._backslash = stream, backslash
        self._pattern = backslash_before_quote(delimiter)
        self._rest = b""
        self.escaped = ""
        r"""First field with `\"`, if such fields are not expected; it would be misread."""

    def read(self, size: int = -1) -> bytes:
        """Read more bytes; at most one more than asked for."""
        if not self._backslash:
            chunk = bytes(self._stream.read(size) if size >= 0 else self._stream.read())
            if not self.escaped and b'\\"' in chunk and (match := self._pattern.search(chunk)):
                self.escaped = match["field"][:80].decode("utf-8", "replace")
            return chunk
        if size == 0:
            return b""
        while True:
            more = bytes(self._stream.read(size) if size >= 0 else self._stream.read())
            chunk, self._rest = self._rest + more, b""
            if more and (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
                chunk, self._rest = chunk[:-1], b"\\"  # what it precedes is not read yet
            if chunk or not more:
                return _doubled(chunk)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


_PAIR = re.compile(rb'\\(["\\])')


def _doubled(chunk: bytes) -> bytes:
    r"""Rewrite `\"` as `""` and `\\` as `\`; other backslashes stay, as in `\N`."""
    if b"\\" not in chunk:
        return chunk
    return _PAIR.sub(lambda match: b'""' if match[1] == b'"' else b"\\", chunk)
