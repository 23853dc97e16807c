"""Random numbers addressed by (seed, stream, index), independent of the order of evaluation.

A chunk of a day can be generated without the chunks before it, and a day has the same bytes
whatever the chunk size.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit integers with a bijection.

    The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, OOPSLA 2014).
    """
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    mixed ^= mixed >> np.uint64(31)
    return mixed


def uniform(seed: int, stream: str, index: npt.NDArray[np.integer]) -> Floats:
    """Uniform numbers in (0, 1), one for each index.

    Args:
        seed: Seed of the exchange.
        stream: Name of the quantity; streams are independent of each other.
        index: Integers of any shape.
    """
    name = np.array([zlib.crc32(stream.encode()) | (seed & 0xFFFFFFFF) << 32], np.uint64)
    bits = mix(index.astype(np.uint64) ^ mix(name))
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(seed: int, stream: str, index: npt.NDArray[np.integer]) -> Floats:
    """Standard normal numbers, one for each index."""
    return np.asarray(ndtri(uniform(seed, stream, index)))


def choice(uniforms: Floats, weights: Floats) -> Ints:
    """Draw indices into `weights` with probabilities proportional to them."""
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, uniforms * edges[-1], side="right")
    return np.asarray(np.minimum(drawn, len(weights) - 1), np.int64).astype(np.int64)


def table(seed: int, stream: str, *shape: int) -> Floats:
    """Standard normal numbers of a given shape."""
    return normal(seed, stream, np.arange(int(np.prod(shape)))).reshape(shape)
