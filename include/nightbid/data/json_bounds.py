"""Limits on JSON lines that protect memory and the call stack from malformed input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from nightbid.errors import CorruptDataError

LONGEST_LINE = 64 << 20
"""Maximum length of a line of JSON, in bytes."""
MOST_FIELDS = 2_000
"""Maximum number of distinct fields in a block; each becomes a column with a cell per row."""
MOST_DEPTH = 200
_OPENS, _CLOSES = np.frombuffer(b"[{", np.uint8), np.frombuffer(b"]}", np.uint8)
_FIELD = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:')


def check_fields(block: bytes, lines: Sequence[bytes]) -> None:
    """Reject lines with so many distinct fields that each row would have thousands of nulls.

    Args:
        block: Whole lines, as bytes.
        lines: The same lines, split.

    Raises:
        CorruptDataError: There are more than `MOST_FIELDS`, for example because ids are field
            names.
    """
    names: set[bytes] = set()
    fresh = 0
    for at, line in enumerate(lines[:: max(1, len(lines) // 200)]):
        fields = set(_FIELD.findall(line))
        fresh += len(fields - names) * (at >= 100)
        names |= fields
    if len(names) + fresh * len(lines) / 100 <= MOST_FIELDS:
        return  # below the limit even if new fields keep coming at this rate
    count = len(set(_FIELD.findall(block)))
    if count > MOST_FIELDS:
        raise CorruptDataError(
            f"has {count:,} different fields, at most {MOST_FIELDS:,} can be read: are ids used "
            "as field names?",
            hint="write lists of ids and of values, or a line per id",
        )


def check_depth(lines: Iterable[bytes]) -> None:
    """Reject lines nested so deeply that Arrow would overflow its stack, which ends the process.

    Raises:
        ValueError: A line is nested deeper than `MOST_DEPTH`.
    """
    for line in lines:
        if len(line) <= MOST_DEPTH:
            continue
        if line.count(b"{") + line.count(b"[") > MOST_DEPTH:
            signs = np.frombuffer(line, np.uint8)
            steps = np.isin(signs, _OPENS).astype(np.int32) - np.isin(signs, _CLOSES)
            if steps.cumsum().max() > MOST_DEPTH:
                raise ValueError(f"a value is nested deeper than {MOST_DEPTH} levels")
