"""Decides which columns may be quoted to others: those with a few common values.

Column names are not sufficient: a user id can be in `c7`. So the values of a column have to be
recognizable as categories; any other column may identify a person.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode
from nightbid.data_check.columns import ColumnSummary
from nightbid.data_check.names import has_meaning, plain

MOST_VALUES = 20
"""Maximum number of distinct values of a categorical column."""
LEAST_ROWS = 5
"""Minimum mean number of rows per distinct value."""
LARGEST_CODE = 1_000_000
"""Number from which whole numbers are taken for ids or phone numbers."""
NAMES = re.compile(
    r"(.*_)?(e_?mail|mail|phone|mobile|msisdn|imei|imsi|mac|ip|ssn|dob|birth(day|_?date)"
    r"|(first|last|full|user|sur)_?name|(user|device|person|account|cookie)_?(id|key|hash)"
    r"|uid|uuid|guid|latitude|longitude|lat|lon|lng|street|address)(_?(addr(ess)?|hash|no))?"
)
"""Names of columns that identify people, whatever their number of values."""
IDENTIFIES = re.compile(
    r"@"
    r"|\b\d{1,3}(\.\d{1,3}){3}\b"  # IPv4
    r"|(?i:[0-9a-f]{0,4}:){3,}"  # IPv6, MAC
    r"|(?i:\b(?=\w*\d)[0-9a-f]{4,}(-[0-9a-f]{4,}){2,}\b)"  # UUID
    r"|(?i:\b(?=\w*\d)[0-9a-f]{12,}\b)"  # hexadecimal digest
    r"|\d([\s()/.-]{0,2}\d){6,}"  # phone and other long numbers
)


def may_be_quoted(column: ColumnSummary) -> bool:
    """Return whether values of a column are categories that identify nobody.

    That means at most 20 distinct values with five rows each on average, none of which looks like
    an id, an address or a sequence number. For lists, the items are checked.
    """
    if column.kind == "empty":
        return True
    if (
        column.kind == "other"
        or NAMES.fullmatch(plain(column.name))
        or has_meaning(column.name, "user")
        or has_meaning(column.name, "key")
    ):
        return False
    values = pc.list_flatten(column.values) if column.kind == "list" else column.values
    codes, tokens = encode(values)
    used = np.unique(codes[codes >= 0])
    if len(used) > MOST_VALUES or (codes >= 0).sum() < LEAST_ROWS * len(used):
        return False
    texts = [str(text) for text in tokens.take(pa.array(used)).to_pylist()]
    return not (_are_numbered(texts) or any(_identifies(text) for text in texts))


def masked(text: str) -> str:
    """Show the format of a text but not its content: `05 Jan` becomes `99 aaa`."""
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", text))


def _identifies(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return bool(IDENTIFIES.search(text))
    return number.is_integer() and abs(number) >= LARGEST_CODE


def _are_numbered(texts: list[str]) -> bool:
    """Return whether texts differ only in a number, such as `user-17` and `user-18`."""
    mixed = [text for text in texts if re.search(r"\d", text) and re.search(r"[^\W\d_]", text)]
    return len({re.sub(r"\d+", "9", text) for text in mixed}) < len(mixed)
