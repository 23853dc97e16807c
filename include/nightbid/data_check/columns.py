"""Summarizes single columns of a sample of rows: kind, missing and distinct values, times."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode, whole
from nightbid.data_check.names import has_meaning
from nightbid.number_parsing import numbers
from nightbid.sampling.labels import flag, states_no_event
from nightbid.time_parsing import as_time

InferredKind = Literal["empty", "flag", "time", "integer", "number", "text", "list", "other"]
Floats = npt.NDArray[np.float64]
LONG_TEXT = 100
"""Mean length in characters from which a text is not a category."""
AMOUNT = (
    r"^(?P<before>[$€£¥₹]|[A-Z]{3} |)-?[0-9][0-9.,]*[.,][0-9]+(?P<after> ?[$€£¥₹%]| [A-Z]{3}|)$"
)
"""Pattern of an amount with decimals and a sign before or after it."""
EARLIEST = (datetime(1999, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
LATEST = (datetime(2100, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days


@dataclass
class ColumnSummary:
    """Summary of one column of the sampled rows."""

    name: str
    type: str
    """Name of its Arrow type."""
    kind: InferredKind
    rows: int
    known: int
    """Number of rows with a value: not null, NaN or the empty text."""
    distinct: int
    """Number of distinct values; 0 for lists."""
    examples: tuple[str, ...]
    mean_length: float = 0.0
    """Mean length of texts, in characters."""
    low: float = float("nan")
    high: float = float("nan")
    values: pa.Array = field(default_factory=lambda: pa.nulls(0), repr=False)

    @property
    def nulls(self) -> float:
        """Share of the rows without a value."""
        return 1 - self.known / self.rows if self.rows else 1.0

    @property
    def distinct_share(self) -> float:
        """Number of distinct values divided by the rows with a value."""
        return self.distinct / self.known if self.known else 0.0

    @cached_property
    def is_known(self) -> npt.NDArray[np.bool_]:
        """Bool [rows], true for values other than null, zero, false and texts of these."""
        if self.kind in ("list", "other", "empty"):
            return np.asarray(pc.is_valid(self.values), bool)
        if self.kind in ("flag", "integer", "number"):
            values = flag(self.values) if self.kind == "flag" else numbers(self.values)
            return np.asarray(np.nan_to_num(values) != 0)
        codes, tokens = encode(self.values)
        return np.append(~states_no_event(tokens), False)[codes]

    @cached_property
    def is_whole(self) -> bool:
        """Whether all numbers are whole, even in a float column, such as 123.0."""
        if self.kind not in ("integer", "number"):
            return False
        values = numbers(self.values)
        values = values[np.isfinite(values)]
        return bool(len(values)) and bool((values == np.floor(values)).all())

    @cached_property
    def is_spelled_twice(self) -> bool:
        """Whether texts write the same number as 123 and as 123.0, giving one id two values."""
        if not pa.types.is_string(self.values.type):
            return False
        texts = pc.unique(self.values.drop_null())
        ends = pc.match_substring_regex(texts, r"^-?[0-9]+\.0+$")
        plain = pc.replace_substring_regex(texts.filter(ends), r"\.0+$", "")
        return bool(pc.any(pc.is_in(plain, texts)).as_py())

    @cached_property
    def amount_sign(self) -> str | None:
        """Sign with which texts write amounts, such as $ or %, "" for none; None: no amounts."""
        if self.kind != "text" or not pa.types.is_string(self.values.type):
            return None
        texts = pc.unique(self.values.drop_null())
        parts = pc.extract_regex(pc.utf8_trim_whitespace(texts), AMOUNT)
        parts = parts.drop_null()
        if len(parts) < 0.98 * len(texts) or not len(parts):
            return None
        signs = pc.binary_join_element_wise(parts.field("before"), parts.field("after"), "")
        return str(pc.value_counts(signs).to_pylist()[0]["values"])

    @property
    def has_hours(self) -> bool:
        """Whether some times of a time column are not midnight."""
        known = self.days[np.isfinite(self.days)]
        return bool((known != np.floor(known)).any())

    @cached_property
    def days(self) -> Floats:
        """Time column as days since 1970, UTC, float64 [rows]; NaN for invalid times."""
        micros = as_time(self.values).cast(pa.int64())
        return np.asarray(pc.fill_null(micros.cast(pa.float64(), safe=False), np.nan)) / 86_400e6


def summarize(table: pa.Table) -> list[ColumnSummary]:
    """Summarize every column of a sample of plain rows (`plain_table`)."""
    return [_summary(name, whole(table[name])) for name in table.column_names]


def _summary(name: str, values: pa.Array) -> ColumnSummary:
    kind = values.type
    if pa.types.is_nested(kind):
        plain = pa.types.is_list(kind) and not pa.types.is_nested(kind.value_type)
        known = len(values) - values.null_count
        shown = tuple(str(value)[:40] for value in values.drop_null()[:2].to_pylist())
        return ColumnSummary(name, str(kind), "list" if plain else "other", len(values), known, 0,
                             shown, values=values)  # fmt: skip
    codes, tokens = encode(values)
    counts = np.bincount(codes[codes >= 0], minlength=len(tokens))
    known, distinct = int(counts.sum()), int((counts > 0).sum())
    top = np.argsort(-counts, kind="stable")[:3]
    examples = tuple(str(tokens[int(at)])[:40] for at in top if counts[at])
    summary = ColumnSummary(
        name, str(kind), "text", len(values), known, distinct, examples, values=values
    )
    summary.kind = _kind(summary, tokens)
    if summary.kind in ("integer", "number"):
        parsed = numbers(values)
        parsed = parsed[np.isfinite(parsed)]
        if len(parsed):
            summary.low, summary.high = float(parsed.min()), float(parsed.max())
    if summary.kind == "text" and known:
        lengths = np.asarray(pc.fill_null(pc.utf8_length(tokens), 0), np.float64)
        summary.mean_length = float((lengths * counts).sum() / known)
    return summary


def _kind(column: ColumnSummary, tokens: pa.Array) -> InferredKind:
    kind = column.values.type
    if column.known == 0:
        return "empty"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_boolean(kind):
        return "flag"
    if column.distinct <= 6 and not pa.types.is_null(kind):
        parsed = flag(tokens)
        if not np.isnan(parsed).any() and len(parsed):
            return "flag"
    if column.distinct > 1 and _is_time(column, tokens):
        return "time"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if column.distinct > 1:
        parsed = numbers(tokens)
        texts = tokens.to_pylist()
        # Codes with leading zeros, and ids that a float would round, stay text.
        if np.isfinite(parsed).mean() > 0.95 and not any(
            len(text) > 15 or (text[:1] == "0" and text[1:2].isdigit()) for text in texts
        ):
            return "number"
    return "text"


def _is_time(column: ColumnSummary, tokens: pa.Array) -> bool:
    """Return whether texts or numbers are times: 98% can be read as dates from 1999 to 2099."""
    is_number = not pa.types.is_string(column.values.type)
    if is_number and not has_meaning(column.name, "time"):
        return False
    sample = tokens[:2000]
    micros = as_time(sample).cast(pa.int64())
    days = np.asarray(pc.fill_null(micros.cast(pa.float64(), safe=False), np.nan)) / 86_400e6
    with np.errstate(invalid="ignore"):
        return bool(((days > EARLIEST) & (days < LATEST)).mean() > 0.98)


ZONES = (
    "UTC", "America/New_York", "America/Los_Angeles", "America/Chicago", "America/Denver",
    "America/Sao_Paulo", "Europe/London", "Europe/Berlin", "Europe/Helsinki", "Europe/Moscow",
    "Asia/Dubai", "Asia/Kolkata", "Asia/Bangkok", "Asia/Shanghai", "Asia/Tokyo",
    "Australia/Sydney",
)  # fmt: skip
"""Time zones to try for the days of a folder."""


@dataclass(frozen=True)
class Clock:
    """Comparison of a column's times with the days of their files."""

    column: str
    inside: float
    """Share of the rows whose UTC day is the day of their file."""
    zone: str
    """Time zone in which most rows are on their file's day."""
    inside_zone: float
    """Share of the rows that are on their file's day in that zone."""
    alike: tuple[str, ...]
    """Other zones that fit equally well."""
    future: float
    """Share of the rows whose time is more than a day after their file's day."""

    @property
    def is_local(self) -> bool:
        """Whether days are in a time zone other than UTC."""
        return self.zone != "UTC"


def clock_of(column: ColumnSummary, day: npt.NDArray[np.int64]) -> Clock:
    """Compare the times of a column with the days of their files.

    Args:
        column: A column of times.
        day: Day of each row's file, int64 [rows], days since 1970.
    """
    known = np.isfinite(column.days)
    day = day[known]
    if not len(day):
        return Clock(column.name, 0.0, "UTC", 0.0, (), 0.0)
    times = as_time(column.values).filter(pa.array(known))
    shares = {}
    for zone in ZONES:
        local = pc.local_timestamp(times.cast(pa.timestamp("us", zone)))
        shares[zone] = float((np.asarray(local.cast(pa.int64())) // 86_400_000_000 == day).mean())
    best = max(shares, key=lambda zone: shares[zone])
    if shares[best] < max(0.97, shares["UTC"] + 0.005):
        best = "UTC"
    alike = [zone for zone in ZONES if zone != best and shares[zone] > shares[best] - 0.001]
    future = float((np.floor(column.days[known]) > day + 1).mean())
    return Clock(column.name, shares["UTC"], best, shares[best], tuple(alike), future)


def day_numbers(days: dict[date, int]) -> npt.NDArray[np.int64]:
    """Day of each row as days since 1970, int64 [rows], from ordered row counts per day."""
    numbers_ = [(day - date(1970, 1, 1)).days for day in days]
    return np.repeat(np.array(numbers_, np.int64), list(days.values()))
