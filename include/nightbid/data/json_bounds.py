"""What a line of JSON may hold, so that a few bytes take neither endless memory nor the stack."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from nightbid.errors import CorruptDataError

LONGEST_LINE = 64 << 20
"""Bytes of a line of JSON."""
MOST_FIELDS = 2_000
"""Different fields in a block of JSON lines: each is a column with a cell per row."""
MOST_DEPTH = 200
_OPENS, _CLOSES = np.frombuffer(b"[{", np.uint8), np.frombuffer(b"]}", np.uint8)
_FIELD = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:')


def check_fields(block: bytes, lines: Sequence[bytes]) -> None:
    """Refuse lines with so many different fields that each row would have thousands of nulls.

    Args:
        block: Whole lines.
        lines: The same, cut.

    Raises:
        CorruptDataError: perhaps ids are used as names of fields.
    """
    names: set[bytes] = set()
    fresh = 0
    for at, line in enumerate(lines[:: max(1, len(lines) // 200)]):
        found = set(_FIELD.findall(line))
        fresh += len(found - names) * (at >= 100)
        names |= found
    if len(names) + fresh * len(lines) / 100 <= MOST_FIELDS:
        return  # so many were not even met if new ones go on like that
    count = len(set(_FIELD.findall(block)))
    if count > MOST_FIELDS:
        raise CorruptDataError(
            f"has {count:,} different fields, at most {MOST_FIELDS:,} can be read: are ids used as"
            " names of fields?",
            hint="write lists of ids and of values, or a line per id",
        )


def check_depth(lines: Iterable[bytes]) -> None:
    """Refuse lines so deep that Arrow would run out of its stack, which ends the process.

    Raises:
        ValueError: There is such a line.
    """
    for line in lines:
        if len(line) <= MOST_DEPTH:
            continue
        if line.count(b"{") + line.count(b"[") > MOST_DEPTH:
            signs = np.frombuffer(line, np.uint8)
            steps = np.isin(signs, _OPENS).astype(np.int32) - np.isin(signs, _CLOSES)
            if steps.cumsum().max() > MOST_DEPTH:
                raise ValueError(f"a value is nested deeper than {MOST_DEPTH} levels")
