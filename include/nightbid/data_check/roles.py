"""Finds the columns of roles, the label, and columns known only after the impression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy.stats import rankdata

from nightbid.column_parsing import encode, hashes
from nightbid.counts import counted
from nightbid.data_check.anonymous import AnonymousRows, anonymous_rows
from nightbid.data_check.columns import Clock, ColumnSummary, clock_of
from nightbid.data_check.labels import LabelCandidate, find_labels
from nightbid.data_check.names import MEANINGS, has_meaning, rank_of
from nightbid.number_parsing import numbers
from nightbid.sampling.labels import flag

Bools = npt.NDArray[np.bool_]
UNIQUE = 0.98
LEAST_DISTINCT = 0.3
"""Minimum share of distinct values for a column named like a key; the rows may be loaded twice."""
LEAST_KNOWN = 10
"""Minimum number of positives with a value, for a column known only where the label is 1."""
TELLTALE_AUC = 0.97
LEAST_EXPECTED = 20
"""Minimum number of expected values, for a day without any to be conspicuous."""


@dataclass
class InferredRoles:
    """Inferred meaning of a folder's columns, with reasons."""

    roles: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Role → why this column was chosen."""
    types: dict[str, str] = field(default_factory=dict)
    """Column → type that `source.types` has to declare."""
    missing: dict[str, str] = field(default_factory=dict)
    """Role without a column → what was searched for."""
    labels: list[LabelCandidate] = field(default_factory=list)
    """Candidates, likeliest first; the first is the label if it is named so or is the only one."""
    amounts: list[LabelCandidate] = field(default_factory=list)
    """Columns that could be the label of `kind: value`."""
    event_time: str | None = None
    unread_time: str = ""
    """Example of a column that is named like a time but cannot be read as one."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Column known only after the impression → why."""
    clocks: list[Clock] = field(default_factory=list)
    repeated: int = 0
    """Number of rows whose key an earlier row of the same day has."""
    repeated_positives: int = 0
    """Number of keys with a positive label in a later row only."""
    anonymous: AnonymousRows = field(default_factory=AnonymousRows)
    no_key: bool = False
    """Whether no column identifies an impression, so that a key has to be made."""
    made_key: str = "impression_id"
    """Name of that key, which no column has."""
    request: str = ""
    """Column that identifies a request with several impressions, named like a key."""
    request_parts: str = ""
    """Column in which the impressions of a request differ."""
    predictions: str = ""
    """Column with the label's probability by another model, a possible baseline."""
    absent: dict[str, list[date]] = field(default_factory=dict)
    """Column that has values on some of the days → days without any."""

    @property
    def label(self) -> str | None:
        """Column of the label; None if it is undecided."""
        return self.labels[0].column if self.labels and "label" not in self.missing else None


def find_roles(
    columns: Sequence[ColumnSummary],
    day: npt.NDArray[np.int64],
    format_roles: dict[str, str | None],
) -> InferredRoles:
    """Find roles, label and outcomes.

    Args:
        columns: Summaries of the sample's columns.
        day: Day of each row's file, int64 [rows], days since 1970.
        format_roles: Roles, and `label`, that the format defines.
    """
    inferred = InferredRoles()
    known = {column.name: column for column in columns}
    inferred.clocks = [
        clock_of(column, day) for column in columns if column.kind == "time" and column.known
    ]
    _time(inferred, known, format_roles)
    _key(inferred, known, day, format_roles)
    for role in ("user", "item", "position", "price", "bid", "floor", "value"):
        _by_name(inferred, known, role, format_roles)
    _requests(inferred, known, day, format_roles)
    if "user" not in inferred.roles and format_roles.get("user") not in known:
        key = inferred.roles.get("key")
        if inferred.request:
            reason = "no column identifies users: intervals resample the rows of a request together"
            _take(inferred, "user", inferred.request, reason)
        elif key or inferred.no_key:
            inferred.roles["user"] = key or inferred.made_key
            inferred.reasons["user"] = (
                "no column identifies users, so each impression counts as its own user: intervals"
                " resample rows"
            )
        else:
            inferred.missing["user"] = "the user who saw the impression (user_id, device_id, …)"
    user = known.get(inferred.roles.get("user", ""))
    if user is not None and user.name != inferred.roles.get("key"):
        inferred.anonymous = anonymous_rows(user)
    _labels(inferred, columns, format_roles)
    if inferred.label:
        _outcomes(inferred, columns)
        _predictions(inferred, columns)
    _absent(inferred, columns, day)
    if inferred.label and inferred.repeated and (label := known[inferred.label]).kind != "time":
        positive = (flag(label.values, inferred.labels[0].texts) == 1) & label.is_known
        keys = hashes(known[inferred.roles["key"]].values)
        for file_day in np.unique(day):
            rows = np.flatnonzero(day == file_day)
            first = rows[np.unique(keys[rows], return_index=True)[1]]
            lost = np.setdiff1d(keys[rows[positive[rows]]], keys[first[positive[first]]])
            inferred.repeated_positives += len(lost)
    return inferred


def _take(inferred: InferredRoles, role: str, name: str, reason: str) -> None:
    inferred.roles[role], inferred.reasons[role] = name, reason


def _is_given(inferred: InferredRoles, known: dict[str, ColumnSummary], role: str,
              format_roles: dict[str, str | None]) -> bool:  # fmt: skip
    name = format_roles.get(role)
    if name and name in known:
        _take(inferred, role, name, "the default of this format")
        return True
    return False


def _time(
    inferred: InferredRoles, known: dict[str, ColumnSummary], format_roles: dict[str, str | None]
) -> None:
    if _is_given(inferred, known, "time", format_roles):
        return
    best: tuple[tuple[float, float], Clock] | None = None
    for clock in inferred.clocks:
        if known[clock.column].nulls > 0.05:
            continue
        rank = rank_of(clock.column, "time")
        score = (round(clock.inside_zone, 1), -float(99 if rank is None else rank))
        if best is None or score > best[0]:
            best = (score, clock)
    if best is None:
        inferred.missing["time"] = "when the impression was served (time, served_at, …)"
        unread = [
            column
            for column in known.values()
            if column.kind == "text" and has_meaning(column.name, "time") and column.examples
        ]
        if unread:
            inferred.unread_time = unread[0].examples[0]
            inferred.missing["time"] += (
                f"; {unread[0].name!r} holds {inferred.unread_time!r}: set its format in "
                "source.time_format, such as %d/%m/%Y %H:%M:%S"
            )
        return
    clock = best[1]
    _take(inferred, "time", clock.column,
          f"{clock.inside_zone:.1%} of its times are on the day of their file"
          + (f", by the clock of {clock.zone}" if clock.is_local else "")
          + ("" if known[clock.column].has_hours else "; it has no time of day: log date and time"
             " in one column to use the hour"))  # fmt: skip


def _key(
    inferred: InferredRoles,
    known: dict[str, ColumnSummary],
    day: npt.NDArray[np.int64],
    format_roles: dict[str, str | None],
) -> None:
    assigned = set(inferred.roles.values())
    ranked: list[tuple[tuple[int, float], str]] = []
    for name, column in known.items():
        if name in assigned or column.kind not in ("text", "integer") or column.mean_length > 200:
            continue
        rank = rank_of(name, "key")
        if column.distinct_share < UNIQUE and not (
            rank == 0 and column.distinct_share > LEAST_DISTINCT
        ):
            continue
        if column.nulls > 0.02 or (rank is None and column.mean_length > 64):
            continue
        if rank is None and (column.distinct_share < 1 or column.amount_sign is not None):
            continue  # without a name for it, nearly distinct values are no key
        ranked.append(((len(MEANINGS["key"]) if rank is None else rank, -column.distinct_share),
                       name))  # fmt: skip
    if not _is_given(inferred, known, "key", format_roles):
        if not ranked:
            inferred.no_key = True
            if inferred.made_key in known:
                inferred.made_key = "generated_key"
            return
        name = min(ranked)[1]
        share = known[name].distinct_share
        why = "all values are distinct" if share == 1 else f"{share:.2%} of its values are distinct"
        _take(inferred, "key", name, why)
    keys = hashes(known[inferred.roles["key"]].values)
    for file_day in np.unique(day):
        day_keys = keys[day == file_day]
        inferred.repeated += len(day_keys) - len(np.unique(day_keys))


FITS = {
    "user": ("text", "integer"),
    "item": ("text", "integer"),
    "position": ("integer", "flag", "text"),
    "price": ("integer", "number"),
    "bid": ("integer", "number"),
    "floor": ("integer", "number"),
    "value": ("integer", "number"),
}


IDS = ("user", "item")
"""Roles whose column may be a float, if every value is whole."""


def _by_name(
    inferred: InferredRoles,
    known: dict[str, ColumnSummary],
    role: str,
    format_roles: dict[str, str | None],
) -> None:
    if _is_given(inferred, known, role, format_roles):
        return
    assigned = set(inferred.roles.values())
    ranked = [
        (rank, -column.distinct, name)
        for name, column in known.items()
        if name not in assigned
        and (column.kind in FITS[role] or (role in IDS and column.is_whole))
        and (rank := rank_of(name, role)) is not None
    ]
    if ranked:
        name = min(ranked)[2]
        why = "by its name"
        if known[name].is_spelled_twice and known[name].is_whole:
            why += "; some of its values are written 123, others 123.0: source.types unifies them"
            inferred.types[name] = "int"
        _take(inferred, role, name, why)


def _requests(
    inferred: InferredRoles,
    known: dict[str, ColumnSummary],
    day: npt.NDArray[np.int64],
    format_roles: dict[str, str | None],
) -> None:
    """Generate a key if the key identifies requests with an impression for each slot or ad."""
    key = inferred.roles.get("key")
    if not inferred.repeated or key is None or format_roles.get("key") == key:
        return
    for role in ("position", "item"):
        part = known.get(inferred.roles.get(role, ""))
        if part is None:
            continue
        rows = np.stack([day.astype(np.uint64), hashes(known[key].values), hashes(part.values)])
        again = len(day) - np.unique(rows, axis=1).shape[1]
        if again <= (1 - UNIQUE) * inferred.repeated:
            inferred.request, inferred.request_parts = key, part.name
            inferred.no_key, inferred.repeated = True, 0
            del inferred.roles["key"]
            if inferred.made_key in known:
                inferred.made_key = "generated_key"
            return


def _predictions(inferred: InferredRoles, columns: Sequence[ColumnSummary]) -> None:
    """Find the probabilities of a model that serves already, by name and range."""
    if inferred.labels[0].kind == "value":
        return
    assigned = {*inferred.roles.values(), *inferred.outcomes, inferred.label}
    names = (
        column.name
        for column in columns
        if column.kind == "number" and column.name not in assigned
        if has_meaning(column.name, "prediction") and column.low >= 0 and column.high <= 1
    )
    inferred.predictions = next(names, "")


def _absent(
    inferred: InferredRoles, columns: Sequence[ColumnSummary], day: npt.NDArray[np.int64]
) -> None:
    """Find columns without any value on a day, although some are expected from the others."""
    days, rows = np.unique(day, return_counts=True)
    for column in columns:
        if column.name in inferred.outcomes or not column.known:
            continue
        valid = np.asarray(pc.is_valid(column.values), bool)
        with_value = np.array([valid[day == file_day].sum() for file_day in days])
        share = valid.sum() / rows[with_value > 0].sum()
        gone = [
            date(1970, 1, 1) + timedelta(days=int(file_day))
            for file_day, count, values in zip(days, rows, with_value, strict=True)
            if not values and count * share >= LEAST_EXPECTED
        ]
        if gone:
            inferred.absent[column.name] = gone


def _labels(
    inferred: InferredRoles, columns: Sequence[ColumnSummary], format_roles: dict[str, str | None]
) -> None:
    value = inferred.roles.get("value")
    others = set(inferred.roles.values())
    labels = find_labels(columns, others, others - {value}, format_roles.get("label"))
    inferred.labels, inferred.amounts = labels.candidates, labels.amounts
    if labels.missing:
        inferred.missing["label"] = labels.missing
    if labels.candidates and labels.candidates[0].column == value:
        del inferred.roles["value"]


def _outcomes(inferred: InferredRoles, columns: Sequence[ColumnSummary]) -> None:
    assert inferred.label is not None
    label_column = next(column for column in columns if column.name == inferred.label)
    label = flag(label_column.values, inferred.labels[0].texts)
    if inferred.labels[0].kind == "value":
        label = (np.nan_to_num(numbers(label_column.values)) > 0).astype(np.float64)
    elif inferred.labels[0].kind == "known":
        label = np.where(label_column.is_known, 1.0, 0.0)
        if label_column.kind == "time":
            inferred.event_time = inferred.label
    yes, no = label == 1, label == 0
    assigned = {*inferred.roles.values(), inferred.label}
    times = next((column for column in columns if column.name == inferred.roles.get("time")), None)
    for column in columns:
        if column.name in assigned or column.kind in ("empty", "other"):
            continue
        if column.distinct == 1 and column.nulls == 0:
            continue
        known_yes, known_no = column.is_known & yes, column.is_known & no
        share_no = float(known_no.sum() / max(no.sum(), 1))
        count = int(known_yes.sum())
        share_yes = count / max(int(yes.sum()), 1)
        if count >= LEAST_KNOWN and share_no <= 0.002 and share_yes >= 50 * share_no:
            condition = "known" if column.kind in ("text", "list", "time") else "other than 0"
            inferred.outcomes[column.name] = (
                f"{condition} only where {inferred.label} is 1: {count:,} of"
                f" {counted(int(yes.sum()), 'such row')}, {int(known_no.sum()):,} of"
                f" {counted(int(no.sum()), 'other')}"
            )
            if column.kind == "time" and share_yes > 0.95 and inferred.event_time is None:
                inferred.event_time = column.name
            continue
        if column.kind == "time" and times is not None:
            later = column.days > times.days
            both = np.isfinite(column.days) & np.isfinite(times.days)
            if both.any() and later[both].mean() > 0.9:
                inferred.outcomes[column.name] = f"later than {times.name}"
                continue
        auc = _auc(column, label)
        if auc is not None and abs(auc - 0.5) > TELLTALE_AUC - 0.5:
            inferred.outcomes[column.name] = (
                f"predicts {inferred.label} almost exactly (AUC {max(auc, 1 - auc):.3f}):"
                " suspected leak"
            )
            continue
        if has_meaning(column.name, "outcome") and not has_meaning(column.name, "past"):
            inferred.outcomes[column.name] = (
                "by its name: remove it here if it is known before the impression"
            )
        elif has_meaning(column.name, "label") and column.kind == "flag":
            inferred.outcomes[column.name] = "by its name: what the user did"


def _auc(column: ColumnSummary, label: npt.NDArray[np.float64]) -> float | None:
    """AUC of a single column, from ranks of numbers or held-out label rates of values."""
    if column.kind in ("time", "list"):
        return None
    usable = ~np.isnan(label)
    if column.kind in ("flag", "integer", "number"):
        values = flag(column.values) if column.kind == "flag" else numbers(column.values)
        score = np.nan_to_num(values, nan=-1e300)
    else:
        if column.distinct * 20 > column.rows:
            return None
        codes, _ = encode(column.values)
        half = np.arange(len(codes)) % 2 == 0
        learn = half & usable
        size = int(codes.max()) + 2
        rows = np.bincount(codes[learn] + 1, minlength=size)
        hits = np.bincount(codes[learn] + 1, weights=label[learn], minlength=size)
        score = ((hits + 0.1) / (rows + 1))[codes + 1]
        usable = usable & ~half
    score, hit = score[usable], label[usable] == 1
    if not hit.any() or hit.all():
        return None
    ranks = rankdata(score)
    count = int(hit.sum())
    return float((ranks[hit].sum() - count * (count + 1) / 2) / (count * (len(hit) - count)))
