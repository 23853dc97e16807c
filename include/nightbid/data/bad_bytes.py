"""Bytes of text files that are not in the file's encoding.

Arrow's CSV reader reads UTF-8 only, and fails if a line with the wrong number of fields is not. So
each invalid byte is replaced by a mark before Arrow reads it, and put back in the fields that hold
marks: these fields are then not UTF-8, and their rows are set aside. A mark is a private character,
`U+10FF00` plus the byte.
"""

from __future__ import annotations

import codecs
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

BLOCK_BYTES = 1 << 20
UTF8 = ("utf-8", "utf8", "utf-8-sig", "ascii")
"""Encodings that are read as UTF-8."""
FIRST = 0x10FF00
_MARKS = f"[{chr(FIRST)}-{chr(FIRST + 0xFF)}]"
_MARK_BYTES = chr(FIRST).encode()[:2]
_IS_MARK = dict.fromkeys(range(FIRST, FIRST + 0x100))
_ESCAPES = {FIRST + byte: f"\\x{byte:02x}" for byte in range(0x100)}
MARK = "nightbid.mark"
"""Name of the error handler that replaces bytes by marks."""


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(FIRST + byte) for byte in bad), error.end


codecs.register_error(MARK, _mark)


class Utf8Bytes:
    """File object that reads text of any encoding as UTF-8, with marks for invalid bytes.

    Args:
        stream: Bytes of the file.
        encoding: Encoding of the bytes.
        left: Number of bytes to read; None: up to the end.
    """

    def __init__(self, stream: Any, encoding: str = "utf-8", left: int | None = None) -> None:
        self._stream, self._left = stream, left
        is_plain = encoding.lower() in UTF8
        self._decoder = None if is_plain else codecs.getincrementaldecoder(encoding)(MARK)
        self._rest = self._ready = b""
        self.has_marks = False
        """Whether any byte read so far was invalid."""

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes of UTF-8; fewer only at the end; -1: all that is left.

        A line may not be longer than a block of Arrow's, so that no block may be short.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))
        ready = self._ready
        while len(ready) < size:
            missing = size - len(ready)
            asked = missing if self._left is None else min(missing, self._left)
            chunk = bytes(self._stream.read(asked))
            self._left = None if self._left is None else self._left - len(chunk)
            read = self._as_utf8(chunk, is_last=not chunk)
            ready = ready + read if ready else read
            if not chunk:
                break
        ready, self._ready = ready[:size], ready[size:]
        return ready

    def _as_utf8(self, chunk: bytes, *, is_last: bool) -> bytes:
        if self._decoder:
            text = self._decoder.decode(chunk, is_last)
            utf8 = text.encode()
            self.has_marks = self.has_marks or _MARK_BYTES in utf8
            return utf8
        chunk, self._rest = self._rest + chunk, b""
        if chunk.isascii():
            return chunk
        try:
            read = codecs.utf_8_decode(chunk, "strict", is_last)[1]
        except UnicodeDecodeError:
            self.has_marks = True
            text, read = codecs.utf_8_decode(chunk, MARK, is_last)
            self._rest = chunk[read:]
            return text.encode()
        self._rest = chunk[read:]
        return chunk[:read] if self._rest else chunk

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def unmarked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Put the invalid bytes back: columns of bytes in which marks stand for them."""
    for place, name in enumerate(batch.schema.names):
        column = batch.column(place)
        marked = pc.fill_null(pc.match_substring_regex(column.cast(pa.string()), _MARKS), False)
        if not pc.any(marked).as_py():
            continue
        values = [_bytes(value.decode()) for value in column.filter(marked).to_pylist()]
        column = pc.replace_with_mask(column, marked, pa.array(values, pa.binary()))
        batch = batch.set_column(place, name, column)
    return batch


def _bytes(text: str) -> bytes:
    return b"".join(
        bytes([ord(sign) - FIRST]) if ord(sign) in _IS_MARK else sign.encode() for sign in text
    )


def shown(text: str) -> str:
    r"""Write marks as escapes, such as `\xff`."""
    return text.translate(_ESCAPES)


def bad_byte_of(text: str) -> int | None:
    """Return the first invalid byte of a text with marks; None if it has none."""
    return next((ord(sign) - FIRST for sign in text if ord(sign) in _IS_MARK), None)
