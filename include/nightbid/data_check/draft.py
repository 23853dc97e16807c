"""Drafts a pipeline YAML for a folder of logs, with the reason of each line as a comment."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from nightbid.config.event_source import EventsSource
from nightbid.counts import counted
from nightbid.data.events import MADE
from nightbid.data_check.columns import LONG_TEXT, Clock, ColumnSummary
from nightbid.data_check.labels import is_named_label, is_pair
from nightbid.data_check.names import has_meaning
from nightbid.data_check.partitions import unit_of
from nightbid.data_check.roles import InferredRoles
from nightbid.number_parsing import numbers
from nightbid.partitions import STEPS, Unit
from nightbid.schema import RESERVED

MOST_FEATURES = 40
MANY_VALUES = 1000
FEW_VALUES = 30
"""Maximum number of distinct values for an integer to be treated as a code."""

NOTES = {
    "types": "  # one type for columns whose files or values are of several",
    "event_key": "  # identifies the event itself: copies are dropped",
}
"""Comments on keys of `source`."""


def draft(
    name: str,
    block: dict[str, Any],
    columns: Sequence[ColumnSummary],
    inferred: InferredRoles,
    days: Sequence[date],
    *,
    has_hours: bool = False,
) -> str:
    """Draft a pipeline YAML.

    Args:
        name: Name of the pipeline.
        block: The `source` block.
        columns: Summaries of the sample's columns.
        inferred: Roles, label and outcomes.
        days: All days of the folder, oldest first.
        has_hours: Whether all file names also state hours.

    Returns:
        The text. Missing parts are comments to fill in.
    """
    block = dict(block)
    if inferred.no_key and "layout" not in block:
        block["make_key"] = inferred.made_key
    zone = next(
        (clock for clock in inferred.clocks if clock.column == inferred.roles.get("time")), None
    )
    is_folder = block["kind"] not in ("kuairand", "events")
    if zone and zone.is_local and is_folder:
        block["time_zone"] = zone.zone
    if inferred.types and is_folder:
        block["types"] = {**block.get("types", {}), **inferred.types}
    outcomes = [outcome for outcome in inferred.outcomes if outcome != inferred.event_time]
    if block["kind"] == "events":
        block = _streams(block, [outcome for outcome in outcomes if outcome not in MADE], zone)
    lines = [
        "# A draft by `nightbid data check`: review and edit it.",
        f"pipeline: {name}",
        "source:",
        *(f"  {key}: {_scalar(value)}{NOTES.get(key, '')}" for key, value in block.items()),
    ]
    if zone and zone.is_local and is_folder and zone.alike:
        lines[-1] += f"  # {', '.join(zone.alike[:3])} would also fit"
    if is_folder and outcomes:
        lines.append("  outcomes:  # known only after the impression, refused as features")
        lines += [
            f"    - {_scalar(outcome)}  # {_comment(inferred.outcomes[outcome])}"
            for outcome in outcomes
        ]
    lines += _columns(inferred)
    lines += _label(inferred, columns)
    if inferred.predictions:
        lines.append(
            f"# baseline: {{column: {_scalar(inferred.predictions)}}}  # if these are the"
            " probabilities of the model that serves today: the first champion to beat"
        )
    lines += _window(days, unit_of(block))
    lines += ["features:", *_features(columns, inferred, days), "model: {architecture: dcn_v2}"]
    if slices := _slices(columns, inferred):
        lines.append(f"evaluate: {{slices: [{', '.join(map(_scalar, slices))}]}}")
    if unit_of(block) == "week":
        lines.append('# schedule: "0 3 * * 1"  # every Monday at three, UTC')
    else:
        lines.append('# schedule: "0 3 * * *"  # every night at three, UTC')
    if has_hours:
        lines.append("# The files name hours: source.partition: hour makes one night per hour.")
    return "\n".join(lines) + "\n"


def _streams(block: dict[str, Any], outcomes: Sequence[str], zone: Clock | None) -> dict[str, Any]:
    """Add outcomes to the impressions, and the time zone to all streams."""
    local = {"time_zone": zone.zone} if zone and zone.is_local else {}
    known = {"outcomes": [*outcomes]} if outcomes else {}
    streams = {
        name: {**block[name], **local, **(known if name == "impressions" else {})}
        for name in EventsSource.streams
        if name in block
    }
    return {**block, **streams}


def _columns(inferred: InferredRoles) -> list[str]:
    roles = dict(inferred.roles)
    if inferred.no_key:
        roles = {"key": inferred.made_key, **roles}
    lines = ["columns:"]
    for role in ("key", "time", "user", "item", "position", "price", "bid", "floor", "value"):
        if role == "key" and inferred.no_key:
            why = "no column is unique per row"
            if inferred.request:
                why = (
                    f"{inferred.request} names a request, whose rows differ in"
                    f" {inferred.request_parts}"
                )
            lines.append(f"  key: {inferred.made_key}  # generated from the day and the row number:"
                         f" {_comment(why)}")  # fmt: skip
        elif role in roles:
            reason = _comment(inferred.reasons[role])
            if role == "key" and inferred.repeated:
                repeated = counted(inferred.repeated, "row")
                reason += f"; repeated keys: {repeated} of the sample, left out"
            lines.append(f"  {role}: {_scalar(roles[role])}  # {reason}")
            if role == "user" and inferred.anonymous.values:
                texts = ", ".join(json.dumps(text) for text, _ in inferred.anonymous.values)
                lines.append(f"  anonymous: [{texts}]  # {inferred.anonymous};"
                             " remove a value that is a user")  # fmt: skip
        elif role in inferred.missing:
            lines.append(f"  # {role}: ???  # missing: {_comment(inferred.missing[role])}")
        elif role == "item":
            lines.append("  item: null  # no column identifies the ad")
    return lines


def _label(inferred: InferredRoles, columns: Sequence[ColumnSummary]) -> list[str]:
    others = [candidate for candidate in inferred.labels if candidate.column != inferred.label]
    note = (
        "; others: "
        + ", ".join(f"{candidate.column} {candidate.rate:.4f}" for candidate in others[:5])
        if others
        else ""
    )
    if inferred.label is None:
        return ["# label:", f"#   column: ???  # missing: {_comment(inferred.missing['label'])}"]
    first = inferred.labels[0]
    if first.kind == "value":
        return [
            "label:",
            "  kind: value  # expected amounts instead of probabilities",
            f"  column: {_scalar(first.column)}  # {first.rate:.4f} above 0,"
            f" mean {first.mean:,.4g}",
        ]
    lines = [
        "label:",
        f"  column: {_scalar(first.column)}  # rate {first.rate:.4f},"
        f" {counted(first.positives, 'positive')} in the sample{_comment(note)}",
    ]
    if first.texts:
        pairs = ", ".join(f"{json.dumps(text)}: {value}" for text, value in first.texts.items())
        lines.append(f"  texts: {{{pairs}}}")
    if first.kind == "known":
        lines.append("  positive: known  # 1 where the column has a value")
    if inferred.event_time:
        lines.append(f"  event_time: {_scalar(inferred.event_time)}  # known where the label is 1")
        lines.append("  # attribution_days: 1  # if labels are final only later")
    return lines


def _window(days: Sequence[date], unit: Unit) -> list[str]:
    run = 1
    while run < len(days) and days[-run] - days[-run - 1] == STEPS[unit]:
        run += 1
    train = max(min(run - 2, 5), 1)
    note = f"{counted(len(days), unit)}, {days[0]} to {days[-1]}"
    if run < 3:
        note += f"; a night needs three {unit}s in a row: one to train, to validate, to evaluate"
    return [f"window: {{train_{unit}s: {train}}}  # the folder has {note}"]


def _features(
    columns: Sequence[ColumnSummary], inferred: InferredRoles, days: Sequence[date]
) -> list[str]:
    lines: list[str] = []
    omitted: list[str] = []
    used: set[str] = set()

    def add(column: str, text: str, why: str, name: str = "") -> None:
        feature = name or re.sub(r"[^A-Za-z0-9_]+", "_", column).strip("_") or "column"
        feature = feature if re.match(r"[A-Za-z_]", feature) else f"c_{feature}"
        feature = feature[:60]
        while feature in used or feature in RESERVED:
            feature += "_"
        used.add(feature)
        if feature != column and "column:" not in text and "columns:" not in text:
            inner = text.strip("{}") if text.startswith("{") else f"transform: {text}"
            text = f"{{{inner}, column: {_scalar(column)}}}"
        lines.append(f"  {feature}: {text}" + (f"  # {_comment(why)}" if why else ""))

    roles = {name: role for role, name in inferred.roles.items() if role != "user"}
    user = inferred.roles.get("user")
    key = inferred.made_key if inferred.no_key else inferred.roles.get("key")
    for column in columns:
        role = roles.get(column.name)
        if column.name in inferred.outcomes or column.name == inferred.label:
            continue
        if column.name in (inferred.event_time, key) or role in ("price", "bid", "value"):
            continue
        if why := _unusable(column.name, inferred, days):
            omitted.append(f"{column.name} ({why})")
            continue
        if role == "time":
            where = f"column: {_scalar(column.name)}"
            if column.has_hours:
                add(column.name, f"{{transform: hour, {where}}}", "", "hour_of_day")
            add(column.name, f"{{transform: day_of_week, {where}}}", "", "weekday")
            continue
        if role == "position":
            if column.kind in ("integer", "flag") and 0 <= _top(column) < 1000:
                text = f"{{transform: identity, size: {_top(column) + 1}, training_only: true}}"
                add(column.name, text, "clicks depend on the slot, which is unknown at serving")
            continue
        text, why = _feature(column, is_id=role == "item" or column.name == user)
        if inferred.label is None and _may_be_label(column, inferred):
            text, why = "", "may be the label"
        if text and column.name in inferred.absent:
            why += f"; no value on {', '.join(map(str, inferred.absent[column.name]))}"
        if not text:
            omitted.append(f"{column.name} ({why})")
        elif len(lines) < MOST_FEATURES:
            add(column.name, text, why)
        else:
            omitted.append(column.name)
    if user and user not in (key, inferred.request):
        columns_ = f"columns: [{_scalar(user)}]"
        add(user, f"{{transform: target_rate, {columns_}, strength: 50}}",
            "how often this user clicked on earlier days", "user_rate")  # fmt: skip
    if omitted:
        note = ", ".join(omitted[:12]) + (
            f" and {len(omitted) - 12} more" if len(omitted) > 12 else ""
        )
        lines.append(f"  # left out: {_comment(note)}")
    return lines


def _unusable(name: str, inferred: InferredRoles, days: Sequence[date]) -> str:
    """Return why a column is no feature whatever its values are; empty if it may be one."""
    if name == inferred.request:
        return "identifies a request"
    if name == inferred.predictions:
        return "predictions of another model"
    if days[-1] in inferred.absent.get(name, ()):
        return f"no value on {days[-1]}: renamed or no longer logged?"
    return ""


def _may_be_label(column: ColumnSummary, inferred: InferredRoles) -> bool:
    """Return whether a column may be the undecided label, which is no feature."""
    candidates = {candidate.column for candidate in inferred.labels}
    return column.name in candidates or is_named_label(column.name) or is_pair(column)


def _top(column: ColumnSummary) -> int:
    values = numbers(column.values)
    values = values[np.isfinite(values)]
    return int(values.max()) if len(values) and values.min() >= 0 else -1


def _feature(column: ColumnSummary, *, is_id: bool) -> tuple[str, str]:
    """Choose a transform and give the reason; an empty transform leaves the column out."""
    is_code = has_meaning(column.name, "code") and not has_meaning(column.name, "past")
    is_id = is_id or has_meaning(column.name, "user") or has_meaning(column.name, "item")
    # A number in text may be a code or a version: 1.10 is not 1.1.
    is_amount = column.kind == "number" and not pa.types.is_string(column.values.type)
    counts = column.distinct > FEW_VALUES and not is_code
    if column.kind == "empty":
        return "", "no value at all"
    if column.kind == "other":
        return "", column.type.split("<")[0]
    if column.kind == "list":
        return "{transform: bag}", "a list"
    if column.distinct <= 1 and column.nulls == 0:
        return "", "only one value"
    if column.kind == "time":
        return "", "a time"
    if column.kind in ("number", "integer") and not is_id and (is_amount or counts):
        skewed = column.low >= 0 and column.high > 1000
        return ("{transform: numeric, log1p: true}" if skewed else "{transform: numeric}"), (
            f"{_rounded(column.low)} to {_rounded(column.high)}"
        )
    if column.amount_sign:
        return "", f"numbers with {column.amount_sign.strip()}: write them as plain numbers"
    if column.kind == "text" and column.mean_length > LONG_TEXT:
        return "", "long text"
    if column.distinct_share > 0.8 and column.distinct > FEW_VALUES:
        return "", "almost every value is unique"
    many = column.distinct > MANY_VALUES
    return ("{min_count: 5}" if many else "vocabulary"), counted(column.distinct, "value")


def _rounded(number: float) -> str:
    """Round a number to two digits, so that an id is not revealed."""
    return f"{float(f'{number:.2g}'):,.4g}"


def _slices(columns: Sequence[ColumnSummary], inferred: InferredRoles) -> list[str]:
    used = {*inferred.roles.values(), *inferred.outcomes, inferred.label}
    names = [
        column.name
        for column in columns
        if column.name not in used and column.kind == "text" and 2 <= column.distinct <= 20
        if inferred.label is not None or not _may_be_label(column, inferred)
    ]
    return names[:2]


def _scalar(value: object) -> str:
    # As an item of a flow list, where the most texts need quotes.
    return yaml.safe_dump(
        [value], default_flow_style=True, width=10_000, allow_unicode=True
    ).strip()[1:-1]


def _comment(text: str) -> str:
    return " ".join(text.split())
