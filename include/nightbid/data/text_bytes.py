"""Provides a text file's bytes to Arrow and counts its lines."""

from __future__ import annotations

import atexit
import re
import threading
import time
from pathlib import Path

import pyarrow as pa

from nightbid.data.bad_bytes import Utf8Bytes
from nightbid.data.text_files import QuotedText
from nightbid.errors import CorruptDataError
from nightbid.shortages import remedy

SEPARATOR = re.compile(rb'\A(?:\xef\xbb\xbf)?"?sep=[^\r\n]"?\r?\n', re.IGNORECASE)
SEPARATOR_BYTES = 16
EXIT_SECONDS = 0.1


class _Ends:
    """Delays the exit of the interpreter while Arrow may still read ahead in an abandoned file.

    An Arrow thread that asks Python for bytes during the exit would abort the process.
    """

    abandoned = False

    @classmethod
    def wait(cls) -> None:
        """Give such threads time to notice that their file is closed."""
        if cls.abandoned:
            time.sleep(EXIT_SECONDS)


atexit.register(_Ends.wait)


class TextBytes:
    """File object that gives Arrow the text of a part and counts the lines."""

    def __init__(self, stream: Utf8Bytes | QuotedText, path: Path) -> None:
        self._stream, self._path = stream, path
        self.closed = False
        self._is_over = False
        self._reading = threading.RLock()
        self.lines = 0
        self._last = b"\n"
        self._start = b""

    def without_separator(self) -> TextBytes:
        """Skip a first line `sep=;`, which tells Excel the delimiter."""
        start = self.read(SEPARATOR_BYTES)
        self.lines, self._last = 0, b"\n"
        self._start = SEPARATOR.sub(b"", start, count=1)
        return self

    def read(self, size: int = -1) -> bytes:
        """Read more bytes.

        Raises:
            CorruptDataError: The compressed data or the disk is damaged.
        """
        with self._reading:
            if self.closed:
                return b""
            chunk = self._read(size)
            self._is_over = not chunk
            return chunk

    def _read(self, size: int) -> bytes:
        start, self._start = self._start, b""
        if size >= 0:
            start, self._start = start[:size], start[size:]
            size -= len(start)
        try:
            chunk = self._stream.read(size)
        except UnicodeError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            raise CorruptDataError(
                f"cannot be read as CSV: {' '.join(str(error).split())}",
                where=str(self._path),
                hint=remedy(error) or "copy the file again; it may be cut off or damaged",
            ) from error
        chunk = start + chunk
        self.lines += chunk.count(b"\n")
        if chunk:
            self._last = chunk[-1:]
        elif self._last != b"\n":
            self.lines, self._last = self.lines + 1, b"\n"  # the last line ends with the file
        return chunk

    def readable(self) -> bool:
        """Tell Arrow that the file can be read."""
        return True

    def close(self) -> None:
        """Close the file once an Arrow thread that is reading ahead has finished its read."""
        with self._reading:
            self.closed = True
            self._stream.close()
            _Ends.abandoned |= not self._is_over


class TextStream(pa.PythonFile):  # type: ignore[misc]
    """Arrow file that counts the lines that have been read from it."""

    source: TextBytes
    utf8: Utf8Bytes
    quoted: QuotedText | None
    """The file below, if its fields may be quoted."""

    @classmethod
    def of(
        cls, utf8: Utf8Bytes, path: Path, quoted: QuotedText | None = None, *, is_start: bool = True
    ) -> TextStream:
        """Wrap the text of a part; the first line of a file may be `sep=;`."""
        source = TextBytes(quoted or utf8, path)
        stream = cls(source.without_separator() if is_start else source, mode="r")
        stream.source, stream.utf8, stream.quoted = source, utf8, quoted
        return stream

    @property
    def lines(self) -> int:
        """Number of lines read so far."""
        return self.source.lines
