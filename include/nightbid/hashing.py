"""Hashes of keys and tokens, equal to `pandas.util.hash_array`, with or without pandas.

A bundle may score rows on a machine without pandas, where its ids must be the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
KEY = np.frombuffer(b"0123456789123456", "<u8")
"""Key of SipHash, the same as in pandas."""
INITIAL = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def integer_hashes(values: npt.NDArray[np.int64]) -> Hashes:
    """Hash int64 values, as uint64 [rows]."""
    return _mixed(values.astype(np.int64).view(np.uint64))


def _mixed(bits: Hashes) -> Hashes:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def text_hashes(values: npt.NDArray[np.object_]) -> Hashes:
    """Hash texts with SipHash-2-4, a fixed key and a mixing step, as uint64 [rows]."""
    by_pandas = _hash_of_pandas()
    if by_pandas is not None:
        return np.asarray(by_pandas(values, categorize=False)).astype(np.uint64)
    return text_hashes_of_numpy(values)


def text_hash(text: str) -> int:
    """Compute `text_hashes` of one text."""
    return int(text_hashes(np.array([text], object))[0])


def text_hashes_of_numpy(values: npt.NDArray[np.object_]) -> Hashes:
    """Compute `text_hashes` with NumPy, an order of magnitude slower than pandas."""
    return _mixed(sip_hashes([str(value).encode() for value in values]))


def sip_hashes(values: list[bytes]) -> Hashes:
    """Compute SipHash-2-4 of many byte strings at once, as uint64 [rows]."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    hashed = np.zeros(len(values), np.uint64)
    for blocks in np.unique(lengths // 8):
        at = np.flatnonzero(lengths // 8 == blocks)
        padded = b"".join(values[row].ljust(8 * (blocks + 1), b"\0") for row in at)
        words = np.frombuffer(padded, "<u8").reshape(len(at), blocks + 1).copy()
        words[:, -1] |= lengths[at].astype(np.uint64) << np.uint64(56)
        hashed[at] = _sip(words)
    return hashed


def _sip(words: Hashes) -> Hashes:
    """Compute SipHash of rows with equal numbers of words."""
    v = [np.full(len(words), KEY[at % 2] ^ np.uint64(INITIAL[at]), np.uint64) for at in range(4)]
    for word in words.T:
        v[3] ^= word
        for _ in range(2):
            _round(v)
        v[0] ^= word
    v[2] ^= np.uint64(0xFF)
    for _ in range(4):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _round(v: list[Hashes]) -> None:
    v[0] += v[1]
    v[1] = _rotated(v[1], 13) ^ v[0]
    v[0] = _rotated(v[0], 32)
    v[2] += v[3]
    v[3] = _rotated(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = _rotated(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = _rotated(v[1], 17) ^ v[2]
    v[2] = _rotated(v[2], 32)


def _rotated(values: Hashes, bits: int) -> Hashes:
    return (values << np.uint64(bits)) | (values >> np.uint64(64 - bits))


@functools.cache
def _hash_of_pandas() -> Callable[..., Any] | None:
    try:
        from pandas.util import hash_array
    except ModuleNotFoundError:
        return None
    return hash_array
