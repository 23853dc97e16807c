"""Converts logged columns to rows for training: parses, sets aside, drops and weighs rows.

These are functions of one batch; the stage loops over batches and days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.anonymous import UserColumn, own_users
from nightbid.column_parsing import hashes
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.number_parsing import numbers
from nightbid.sampling.labels import Bools, blanks, flag, label_of, nulls, refuse_other_labels
from nightbid.sampling.plain import plain_table
from nightbid.schema import GIVEN, KEY, LABEL, REASON, RESERVED, TEXT, TIME, TRUTH, USER, WEIGHT
from nightbid.time_parsing import as_time

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec

THINNED = ("history", "train", "young")
"""Splits whose negatives are downsampled."""
HEAVIEST = 1e6
"""Maximum weight of a logged row, which keeps sums of weights exact."""


@dataclass(frozen=True)
class ParsedBatch:
    """Result of parsing one batch."""

    good: pa.Table
    """Raw and reserved columns of the rows that could be parsed."""
    aside: pa.Table
    """Raw columns of the other rows, with the reason."""
    places: npt.NDArray[np.int64]
    """Positions of the good rows in the batch."""
    positives: int = 0
    """Number of good rows whose label is 1, before any attribution window."""
    aside_positives: int = 0
    """Number of rows set aside whose label is 1 or unreadable, so that it may have been 1."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """Reason → the first value that caused it, if a value did."""


def parse(
    table: pa.Table,
    spec: PipelineSpec,
    truth: Mapping[str, str],
    where: str,
    until: int | None = None,
) -> ParsedBatch:
    """Add the reserved columns to every row, or a reason why that is impossible.

    Args:
        table: Raw columns of some rows of one day, of any type; see `plain_table`.
        spec: Settings of the pipeline, which name the columns by role.
        truth: Label column → column of its true probability, if known.
        where: The day, for error messages.
        until: Microseconds since 1970 at which later events are unknown; None: all events are
            known.

    Raises:
        MissingDataError: A column that the pipeline names is missing.
        CorruptDataError: Most values of the label column are invalid, or a column has a reserved
            name.
    """
    _check_names(table, spec, where)
    if REASON in table.column_names:
        # Rows that the source could not read get no further reasons.
        unread = pa.array(~nulls(table[REASON]))
        read = np.flatnonzero(nulls(table[REASON]))
        all_known = len(read) == len(table)
        known = _without(table if all_known else table.filter(pc.invert(unread)), REASON, TEXT)
        parsed = parse(known, spec, truth, where, until)
        parsed_aside = parsed.aside.append_column(TEXT, pa.nulls(len(parsed.aside), pa.string()))
        unread_rows = plain_table(table.filter(unread))
        if TEXT not in unread_rows.column_names:
            unread_rows = unread_rows.append_column(TEXT, pa.nulls(len(unread_rows), pa.string()))
        unread_rows = unread_rows.select(parsed_aside.column_names).cast(parsed_aside.schema)
        spoiled = pc.starts_with(unread_rows[REASON], f"{spec.label.column} is not ")
        lost = (label_of(unread_rows, spec) > 0) | np.asarray(spoiled)
        return replace(
            parsed,
            aside=pa.concat_tables([unread_rows, parsed_aside]),
            places=read[parsed.places],
            aside_positives=parsed.aside_positives + int(lost.sum()),
            examples={**_examples(unread_rows, spec), **parsed.examples},
        )
    table = plain_table(table)
    roles, label = spec.columns, spec.label
    reasons: dict[str, Bools] = {}
    reasons[f"{roles.key} is null"] = nulls(table[roles.key])
    reasons[f"{roles.key} is empty"] = blanks(table[roles.key])
    zone = zone_of(spec)
    time = as_time(table[roles.time], zone)
    reasons[f"{roles.time} is not a time"] = nulls(time)
    value = label_of(table, spec)
    wrong = np.isnan(value)
    given = None
    if label.given:
        given = flag(table[label.given], label.texts)
        reasons[f"{label.given} is neither 0 nor 1"] = np.isnan(given)
        # If the condition does not hold, the label is meaningless.
        wrong = wrong & (given == 1)
    unlike = "is neither 0 nor 1" if label.kind == "binary" else "is not a value from 0 on"
    reasons[f"{label.column} {unlike}"] = wrong
    refuse_other_labels(table[label.column], wrong, spec, where)
    event = None
    if label.event_time:
        event = as_time(table[label.event_time], zone)
        reasons[f"{label.event_time} is null though {label.column} is 1"] = (value == 1) & nulls(
            event
        )
    weight = np.ones(len(table))
    if roles.weight:
        weight = numbers(table[roles.weight])
        reasons[f"{roles.weight} is not a weight"] = ~((weight >= 0) & (weight <= HEAVIEST))
    bad = np.zeros(len(table), bool)
    reason = np.full(len(table), None, object)
    for text, rows in reasons.items():
        reason[rows & ~bad] = text
        bad |= rows
    aside = table.filter(pa.array(bad)).append_column(REASON, pa.array(reason[bad], pa.string()))
    keep = pa.array(~bad)
    good = table.filter(keep)
    time = time.filter(keep)
    unreadable = wrong & ~nulls(table[label.column])
    aside_positives = int((bad & ((value > 0) | unreadable)).sum())
    value = value[~bad]
    positives = int((value > 0).sum())
    if event is not None and label.attribution_days:
        limit = label.attribution_days * 86_400_000_000
        waited = pc.subtract(event.filter(keep).cast(pa.int64()), time.cast(pa.int64()))
        value = np.where(np.asarray(pc.fill_null(waited, 0)) <= limit, value, 0.0)
        if until is not None:
            happened = np.asarray(pc.fill_null(event.filter(keep).cast(pa.int64()), 0))
            value = np.where(happened < until, value, 0.0)
    if label.entire_space and given is not None:
        value = np.where(given[~bad] == 1, value, 0.0)
    keys = hashes(good[roles.key]).view(np.int64)
    reserved = {
        KEY: pa.array(keys),
        LABEL: pa.array(np.nan_to_num(value).astype(np.float32)),
        WEIGHT: pa.array(weight[~bad].astype(np.float32)),
        TIME: time,
        USER: pa.array(_users(good, UserColumn.of(roles), keys)),
    }
    if label.entire_space and given is not None:
        reserved[GIVEN] = pa.array(given[~bad].astype(np.float32))
    if (known := _truth(good, spec, truth)) is not None:
        reserved[TRUTH] = known
    for name, column in reserved.items():
        good = good.append_column(name, column)
    places = np.flatnonzero(~bad)
    return ParsedBatch(good, aside, places, positives, aside_positives, _examples(aside, spec))


def _users(good: pa.Table, user: UserColumn, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Hash the users, int64 [rows]; a row without one is a user of its own."""
    users = hashes(good[user.name]).view(np.int64)
    absent = user.is_absent(good[user.name])
    return np.where(absent, own_users(keys), users) if absent.any() else users


def zone_of(spec: PipelineSpec) -> str:
    """Return the time zone of the days of a pipeline's source."""
    return str(getattr(spec.source, "time_zone", "UTC"))


def _check_names(table: pa.Table, spec: PipelineSpec, where: str) -> None:
    """Reject a table that lacks a column of the pipeline or has a column with a reserved name."""
    roles, label = spec.columns, spec.label
    required = [roles.key, roles.time, roles.user, label.column]
    logged = (
        roles.price, roles.bid, roles.floor, roles.value, roles.competing, roles.propensity,
        roles.candidates, roles.weight, roles.conversion, roles.currency,
    )  # fmt: skip
    required += [name for name in (label.given, label.event_time, label.delay_by, *logged) if name]
    present = [name for name in table.column_names if name not in (REASON, TEXT)]
    missing = [repr(name) for name in dict.fromkeys(required) if name not in present]
    if missing:
        is_one = len(missing) == 1
        raise MissingDataError(
            f"column{'' if is_one else 's'} {', '.join(missing)} {'is' if is_one else 'are'}"
            " missing",
            where=where,
            hint=f"the day has {', '.join(present[:12])}{'…' if len(present) > 12 else ''}; fix the"
            " logs, or `columns` and `label` of the pipeline; if the logs have renamed it, set"
            " `source.rename`",
        )
    for name in dict.fromkeys(required):
        kind = table.schema.field(name).type
        if pa.types.is_nested(kind) and name not in (roles.competing, roles.candidates):
            raise CorruptDataError(
                f"column {name!r} is {kind}, which holds more than one value per row",
                where=where,
                hint="name another column in `columns` and `label`; lists can be features, with"
                " transform: bag or transform: sequence",
            )
    for name in present:
        if name in RESERVED:
            raise CorruptDataError(
                f"the logs have a column {name!r}, a name that Nightbid reserves",
                where=where,
                hint=f"rename it: `rename: {{{name}: logged_{name}}}` in `source`",
            )


def draw(
    table: pa.Table, spec: PipelineSpec, split: str, seen: list[npt.NDArray[np.int64]]
) -> pa.Table:
    """Select the rows of a split by a stable hash, so that reruns and backfills select the same.

    Args:
        table: Parsed rows.
        spec: Settings of the pipeline: label condition and negative rate.
        split: Split of the rows; negatives are downsampled only in those of `THINNED`.
        seen: Keys of the day's earlier batches, whose rows are dropped; extended by this call.

    Returns:
        The selected rows, weighted.
    """
    rows = table.filter(pa.array(chosen(table, wanted(table, spec), seen)))
    return thinned(rows, spec) if split in THINNED else rows


def chosen(table: pa.Table, is_wanted: Bools, seen: list[npt.NDArray[np.int64]]) -> Bools:
    """Return which parsed rows belong to the day: the first of each key, if it is wanted.

    Args:
        table: Parsed rows.
        is_wanted: [rows], see `wanted`.
        seen: Keys of earlier rows of the day; those of this table are added.

    Returns:
        Bool [rows], true for rows that belong to the day.
    """
    keys = np.asarray(table[KEY])
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    for earlier in seen:
        first &= ~np.isin(keys, earlier)
    seen.append(keys[first])
    return first & is_wanted


def wanted(table: pa.Table, spec: PipelineSpec) -> Bools:
    """Return which parsed rows meet the label's condition and have a weight, bool [rows]."""
    rows = np.ones(len(table), bool)
    if spec.label.given and not spec.label.entire_space:
        rows &= flag(table[spec.label.given], spec.label.texts) == 1
    if spec.columns.weight:
        rows &= np.asarray(table[WEIGHT]) > 0
    return rows


def positive_keys(table: pa.Table, among: Bools | bool = True) -> npt.NDArray[np.int64]:
    """Return the keys of the rows whose label is above 0, int64.

    Args:
        table: Parsed rows.
        among: [rows], rows to consider; by default all.
    """
    return np.asarray(table[KEY])[(np.asarray(table[LABEL]) > 0) & among]


def thinned(whole: pa.Table, spec: PipelineSpec) -> pa.Table:
    """Downsample the negatives of training rows; the kept ones are weighted to compensate."""
    rate = spec.sampling.negative_rate
    if rate >= 1:
        return whole
    # In the entire space, clicks are rare too and have labels to learn from: all are kept.
    negative = np.asarray(whole[GIVEN if GIVEN in whole.column_names else LABEL]) == 0
    chance = sampling_hash(np.asarray(whole[KEY]))
    keep = ~negative | (chance < rate)
    logged = np.asarray(whole[WEIGHT], np.float64)
    weight = np.where(negative, logged / rate, logged).astype(np.float32)
    place = whole.column_names.index(WEIGHT)
    weighted = whole.set_column(place, WEIGHT, pa.array(weight))
    return weighted.filter(pa.array(keep))


def _truth(good: pa.Table, spec: PipelineSpec, truth: Mapping[str, str]) -> pa.Array | None:
    """True probability of the label (and condition, in the entire space), float64 [rows]."""
    label = spec.label
    columns = [label.column] + ([label.given] if label.entire_space and label.given else [])
    names = [truth.get(column, "") for column in columns]
    if not all(name in good.column_names for name in names):
        return None
    factors = [np.asarray(good[name].cast(pa.float64())) for name in names]
    return pa.array(np.prod(factors, axis=0))


def sampling_hash(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Map keys uniformly to [0, 1), independently of other uses of their hash."""
    salted = keys.view(np.uint64) ^ np.uint64(0x6E696768746269D5)
    # Imported here: it takes half a second, and most commands do not need it.
    from pandas.util import hash_array

    return hash_array(salted).astype(np.float64) / 2.0**64


def _without(table: pa.Table, *names: str) -> pa.Table:
    return table.drop_columns([name for name in names if name in table.column_names])


def _examples(aside: pa.Table, spec: PipelineSpec) -> dict[str, str]:
    """The first unreadable value of each reason, truncated to fit on a line."""
    examples: dict[str, str] = {}
    for reason in pc.unique(aside[REASON]).to_pylist():
        name = reason.split(" is ")[0]
        row = aside.slice(pc.index(aside[REASON], reason).as_py(), 1)
        text = row[TEXT][0].as_py() if TEXT in row.column_names else None
        value = (
            text if text is not None else row[name][0].as_py() if name in row.schema.names else None
        )
        if value is not None and value != "":
            examples[reason] = repr(value) if len(repr(value)) <= 60 else repr(value)[:59] + "…"
    return examples
