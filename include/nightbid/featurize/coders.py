"""How statistics go from one step of Beam to the next.

Beam encodes what leaves a step, even within one process, and encodes more only to know its size;
with the counts of large vocabularies that took a third of the time of learning. So a size is a
guess, and within one process a reference is sent.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apache_beam.coders import Coder, PickleCoder

GUESS = 1 << 20
"""Bytes of an element, for Beam's progress; nothing depends on it."""

_pickled = PickleCoder()
_lock = threading.Lock()
_kept: dict[bytes, Any] = {}
_passes = 0
"""Passes whose only worker is in this process."""


@contextmanager
def in_this_process() -> Iterator[None]:
    """Say that every step of a pass runs here; what was kept is forgotten at its end."""
    global _passes
    with _lock:
        _passes += 1
    try:
        yield
    finally:
        with _lock:
            _passes -= 1
            if not _passes:
                _kept.clear()


class InProcessCoder(Coder):  # type: ignore[misc]
    """Encodes immutable values: as a reference where all steps are here, else by pickling.

    A reference may be decoded several times, as a runner does that tries a bundle again.
    """

    def encode(self, value: Any) -> bytes:
        """Keep it, or pickle it."""
        if not _passes:
            return bytes(_pickled.encode(value))
        reference = uuid.uuid4().bytes
        _kept[reference] = value
        return reference

    def decode(self, encoded: bytes) -> Any:
        """Give the value."""
        # A pickle is longer than a reference, whose 16 bytes are random: no need to mark either.
        return _kept[encoded] if encoded in _kept else _pickled.decode(encoded)

    def estimate_size(self, value: Any) -> int:
        """Guess: to know it would be to pickle it."""
        return GUESS

    def is_deterministic(self) -> bool:
        """No: it cannot encode a key."""
        return False
