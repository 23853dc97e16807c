"""Finds possible labels among the columns of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nightbid.data_check.columns import ColumnSummary
from nightbid.data_check.names import has_meaning, rank_of
from nightbid.number_parsing import numbers
from nightbid.sampling.labels import flag

OPPOSITES: tuple[dict[str, int], ...] = (
    {"yes": 1, "no": 0}, {"y": 1, "n": 0}, {"t": 1, "f": 0}, {"on": 1, "off": 0},
    {"ja": 1, "nein": 0}, {"oui": 1, "non": 0}, {"si": 1, "no": 0}, {"sí": 1, "no": 0},
    {"sim": 1, "não": 0},
)  # fmt: skip
"""Pairs of opposite words; the draft states which one is 1."""


@dataclass(frozen=True)
class LabelCandidate:
    """A possible label: a flag, a column with a value only after an event, or amounts."""

    column: str
    rate: float
    """Share of rows with label 1, or for amounts of rows above 0."""
    positives: int
    by_name: bool
    kind: Literal["one", "known", "value"] = "one"
    mean: float = 0.0
    """Mean of amounts."""
    texts: Mapping[str, int] = field(default_factory=dict)
    """Text → label, if the column's texts are not 0 and 1."""


@dataclass(frozen=True)
class LabelChoice:
    """Possible labels, and what is missing if none can be chosen."""

    candidates: list[LabelCandidate]
    """Likeliest first; the first is the label if nothing is missing."""
    amounts: list[LabelCandidate]
    """Columns that could be the label of `kind: value`."""
    missing: str = ""
    """What was searched for, or which candidates are equally likely; empty: the label is found."""


def find_labels(
    columns: Sequence[ColumnSummary],
    assigned: set[str],
    no_amounts: set[str],
    format_label: str | None,
) -> LabelChoice:
    """Find the label: a flag, else a column known only after an event, else an amount.

    Args:
        columns: Summaries of the sample's columns.
        assigned: Columns that have a role.
        no_amounts: Those of them that cannot be the label of `kind: value` either.
        format_label: Label that the format defines; None: it defines none.
    """
    free = [column for column in columns if column.name not in assigned]
    candidates = _flags(free, format_label) or _known_only(free)
    amounts = _amounts([column for column in columns if column.name not in no_amounts])
    candidates = candidates or amounts
    missing = ""
    if not candidates:
        missing = "a column of zeros and ones with both (click, converted, …)" + _hint(free)
    elif not candidates[0].by_name and len(candidates) > 1:
        names = ", ".join(candidate.column for candidate in candidates[:6])
        missing = f"one of {names}: the names do not say which one to predict"
    return LabelChoice(candidates, amounts, missing)


def _flags(columns: Sequence[ColumnSummary], format_label: str | None) -> list[LabelCandidate]:
    """Columns with both labels, likeliest first by their names, then the rarest positives."""
    ranked: list[tuple[tuple[int, float], LabelCandidate]] = []
    for column in columns:
        texts = _two_words(column)
        if (column.kind != "flag" and not texts) or column.nulls > 0.5:
            continue
        value = flag(column.values, texts)
        positives, negatives = int(np.nansum(value == 1)), int(np.nansum(value == 0))
        if not positives or not negatives:
            continue
        rank = -1 if column.name == format_label else rank_of(column.name, "label")
        rate = positives / (positives + negatives)
        order = (99 if rank is None else rank, rate)
        ranked.append(
            (order, LabelCandidate(column.name, rate, positives, rank is not None, texts=texts))
        )
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])]


def _known_only(columns: Sequence[ColumnSummary]) -> list[LabelCandidate]:
    """Columns of logs in which an event is marked only by a flag (1 or nothing) or by its time."""
    events = [
        column
        for column in columns
        if column.nulls >= 0.05 and column.known
        if column.kind == "time"
        or (column.distinct == 1 and is_named_label(column.name) and column.is_known.any())
    ]
    return [
        LabelCandidate(column.name, column.known / column.rows, column.known, True, "known")
        for column in sorted(events, key=lambda column: (column.kind == "time", column.known))
    ]


def _hint(columns: Sequence[ColumnSummary]) -> str:
    """Describe a column that is like a label but has other values; empty if there is none."""
    for column in columns:
        if is_pair(column):
            return (
                f"; {column.name!r} holds {column.examples[0]!r} and {column.examples[1]!r}: if it"
                " is the label, say which is 1 in label.texts"
            )
    for column in columns:
        if is_named_label(column.name) and column.kind in ("integer", "number"):
            return (
                f"; {column.name!r} holds numbers up to {column.high:,.4g}: write one row for each"
                " impression, not sums of several"
            )
    return ""


def is_named_label(name: str) -> bool:
    """Return whether a column is named like a label, and not like a rate of past events."""
    return has_meaning(name, "label") and not has_meaning(name, "past")


def is_pair(column: ColumnSummary) -> bool:
    """Return whether a column named like a label or an event has two texts, as click and view."""
    is_named = is_named_label(column.name) or has_meaning(column.name, "event")
    return column.kind == "text" and column.distinct == 2 and is_named


def _two_words(column: ColumnSummary) -> dict[str, int]:
    """Map a column of two opposite words, such as yes and no, to labels; empty if it is none."""
    if column.kind != "text" or column.distinct != 2:
        return {}
    words = {str(example).lower() for example in column.examples}
    return next((dict(pair) for pair in OPPOSITES if words == pair.keys()), {})


def _amounts(columns: Sequence[ColumnSummary]) -> list[LabelCandidate]:
    """Columns that are amounts by their names, such as revenue or seconds watched."""
    candidates = []
    for column in columns:
        if column.kind not in ("integer", "number") or column.low < 0:
            continue
        if not has_meaning(column.name, "amount") or has_meaning(column.name, "past"):
            continue
        amounts = np.nan_to_num(numbers(column.values))
        above = int((amounts > 0).sum())
        candidates.append(
            LabelCandidate(
                column.name, above / column.rows, above, True, "value", float(amounts.mean())
            )
        )
    return sorted(
        (candidate for candidate in candidates if candidate.positives),
        key=lambda candidate: -candidate.rate,
    )
