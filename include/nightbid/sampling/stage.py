"""Sampling stage: converts the days of a night to rows for training.

Each day is sampled once (`nightbid.sampling.day`) and shared by all nights, runs and pipelines with
the same key for the day; the night's own files are links to those of its days.

Writes `split=*/dt=*/part-00000.parquet`, rows that could not be parsed to `quarantine/`, and a
profile of every day's parsed rows, before downsampling. For the days to evaluate, a stable sample
of the same rows is in `rows/`, for the gate's row expectations.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from nightbid.config.pipeline import READ_SPLITS, SPLITS, Night, PipelineSpec, Split, named_columns
from nightbid.counts import are, counted
from nightbid.data.day_names import SPELLED
from nightbid.data.source import Source, open_source
from nightbid.data.user_keys import UserKeyHasher
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.features.outcomes import refuse_outcomes
from nightbid.night.days import days_made
from nightbid.night.manifest import RowCounts
from nightbid.night.task import Outcome, StageTask
from nightbid.partitions import Unit
from nightbid.sampling.day import listed
from nightbid.sampling.delays import add_seen, end_of, learn_delays
from nightbid.sampling.frozen import place
from nightbid.sampling.units import DayRowCounts
from nightbid.sampling.window_days import sampled_days
from nightbid.schema import split_files


def run(task: StageTask) -> Outcome:
    """Sample every day of the night's window.

    Raises:
        MissingDataError: A day or a column is missing, or the window is longer than the history.
        CorruptDataError: A day is empty or unreadable, the label is not binary, no row has a user,
            or a frozen data set was changed.
        ConfigError: A frozen data set is of another night, or was sampled with other settings.
    """
    if name := task.spec.sampling.frozen:
        return _frozen(task, name)
    source, window, outcomes = prepared(task)
    history = sum(split == "history" for split, _ in window)
    counts: dict[str, DayRowCounts] = {}
    young: dict[str, DayRowCounts] = {}
    why_made: dict[str, str] = {}
    rows_of: dict[str, str] = {}
    keys: dict[str, str] = {}
    for day, output in sampled_days(task, source, window):
        day_counts = young if day.split == "young" else counts
        day_counts[str(day.day)] = DayRowCounts.from_json(output.manifest.metrics["count"])
        keys[str(day.day)] = output.key
        if output.why:
            why_made[str(day.day)] = output.why
        if output.why and day.rows_of:
            rows_of[str(day.day)] = day.rows_of
    delays = _with_shares(task) if young else {}
    used = (*counts.values(), *(young.values() if delays else ()))
    rows_of_days = [count.to_rows() for count in used]
    names = ("read", "written", "quarantined", "repeated", "dropped")
    total = RowCounts(
        **{name: sum(getattr(day_rows, name) for day_rows in rows_of_days) for name in names}
    )
    _refuse_no_users(counts, task.spec)
    weight = sum(count.weight for count in counts.values())
    rate = sum(count.positives for count in counts.values()) / weight if weight else 0.0
    reasons: dict[str, int] = {}
    examples: dict[str, str] = {}
    for count in counts.values():
        examples = {**count.examples, **examples}
        for reason, rows in count.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + rows
    return Outcome(
        rows=total,
        metrics={
            "label_rate": rate,
            "days": {name: count.to_json() for name, count in counts.items()},
            **(
                {"young": {name: count.to_json() for name, count in young.items()}} if young else {}
            ),
            **delays,
            "quarantine": reasons,
            "quarantine_examples": examples,
            "outcomes": outcomes,
            "day_outputs": keys,
            "made": why_made,
            "rows_of": rows_of,
        },
        summary=f"{days_made(why_made, len(counts) + len(young), unit=task.spec.partition)}"
        f"{_rows_of(rows_of, why_made)}, "
        f"{_history(history, task.night)}{_young(len(young), delays)}"
        f"{_rate_word(task.spec)} {rate:.4f}, {_accounted(total)}"
        f"{_anonymous(counts, task.spec)}"
        + (f", quarantined: {listed(reasons, examples)}" if reasons else ""),
    )


def prepared(task: StageTask) -> tuple[Source, list[tuple[Split, date]], list[str]]:
    """Open the logs of a night.

    Returns:
        The source; splits and days, oldest first; and columns that no feature may read.

    Raises:
        MissingDataError: A day is missing, or the window is longer than the history.
        CorruptDataError: A feature reads an outcome.
    """
    night = with_known_history(task.spec, task.night, task.cache)
    window = [(split, day) for split in READ_SPLITS for day in night.days(split)]
    named = named_columns(task.spec)
    source = open_source(task.spec.source, task.cache, [day for _, day in window], named)
    check_window(source, night, task.spec.partition)
    roles = task.spec.columns
    known = {*source.meaning.outcomes, *source.meaning.truth.values()}
    never = (
        roles.price, roles.bid, roles.value, roles.competing, roles.propensity, roles.weight,
        roles.conversion,
    )  # fmt: skip
    outcomes = sorted(known | set(filter(None, never)))
    refuse_outcomes(task.spec, outcomes)
    return source, window, outcomes


def _with_shares(task: StageTask) -> dict[str, float]:
    """Add the known share of positives to young rows; delete the rows if delays are unknown.

    Returns:
        Metrics: number of positives that delays were estimated from, and mean delay in hours.
    """
    final = [path for split in SPLITS for path in split_files(task.output, split)]
    files = split_files(task.output, "young")
    delays = learn_delays(final, task.spec)
    if delays is None:
        shutil.rmtree(task.output / "split=young", ignore_errors=True)
        return {}
    for path in files:
        add_seen(path, delays, task.spec, end_of(task.night.date, task.spec))
    return {"delays": len(delays.shape), "delay_hours": delays.overall / 3600}


def _frozen(task: StageTask, name: str) -> Outcome:
    manifest = place(task.workspace, name, task.spec, task.night, task.output)
    rate = manifest.metrics.get("label_rate")
    return Outcome(
        rows=manifest.rows,
        metrics=manifest.metrics,
        summary=f"{counted(manifest.rows.written, 'row')} of the frozen data set {name}, every byte"
        " checked" + (f", {_rate_word(task.spec)} {rate:.4f}" if rate is not None else ""),
    )


def fingerprint(spec: PipelineSpec, night: Night, cache: Path) -> str:
    """Fingerprint of the night's raw logs: changed logs are sampled again."""
    if spec.sampling.frozen:
        return f"frozen as {spec.sampling.frozen}"  # the rows of a name never change
    known = with_known_history(spec, night, cache)
    days = (*known.history, *night.train, *night.validate_, *night.evaluate, *night.young)
    digest = open_source(spec.source, cache, days, named_columns(spec)).fingerprint(days)
    keys = UserKeyHasher.of(spec)
    return f"{digest} keyed {keys.fingerprint}" if keys else digest


def with_known_history(spec: PipelineSpec, night: Night, cache: Path) -> Night:
    """Drop history days before the first day of the logs; later gaps are kept."""
    if not night.history:
        return night
    days = open_source(spec.source, cache).days()
    first = days[0] if days else getattr(spec.source, "start", None)
    if first is None:
        return night
    history = tuple(day for day in night.history if day >= first)
    return night.model_copy(update={"history": history})


def _history(days: int, night: Night) -> str:
    if not night.history:
        return ""
    of = "" if days == len(night.history) else f" of {len(night.history)}"
    return f"{days}{of} of them for history only, "


def _young(days: int, delays: dict[str, float]) -> str:
    if not days:
        return ""
    if not delays:
        left_out = counted(days, "young day")
        return f"{left_out} left out: too few positives tell how long they take, "
    return f"{days} of them young (positives take {delays['delay_hours']:.1f} h), "


def check_window(source: Source, night: Night, unit: Unit = "day") -> None:
    """Reject a window that the source does not cover, with an error that names the known days.

    Raises:
        MissingDataError: A day of the window is missing.
    """
    known = source.days()
    if known is None:
        return
    window = (*night.history, *night.train, *night.validate_, *night.evaluate, *night.young)
    missing = [day for day in window if day not in set(known)]
    if not missing:
        return
    if not known:
        raise MissingDataError(
            "no file of the folder belongs to a day",
            where="source",
            hint=f"see what `nightbid data check FOLDER` finds in it, or name days {SPELLED}",
        )
    if missing[0] == window[0] and window[0] < known[0]:
        raise MissingDataError(
            f"the window of {counted(len(window), unit)} starts on {window[0]}, but the logs"
            f" start on {known[0]}",
            where="window",
            hint=f"shorten window.train_{unit}s or use a later date",
        )
    raise MissingDataError(
        f"{len(missing)} of {counted(len(window), unit)} {are(len(missing))} missing:"
        f" {', '.join(map(str, missing[:5]))}",
        where="source",
        hint=f"the logs go from {known[0]} to {known[-1]}; load the missing days, or use another "
        "date",
    )


def _rows_of(rows_of: Mapping[str, str], why_made: Mapping[str, str]) -> str:
    """Name the pipelines whose sampled days were read."""
    if not rows_of:
        return ""
    days = "" if len(rows_of) == len(why_made) else f"{len(rows_of)} "
    return f" ({days}from rows of {', '.join(sorted(set(rows_of.values())))}, not the logs)"


def _rate_word(spec: PipelineSpec) -> str:
    return "mean value" if spec.label.kind == "value" else "label rate"


def _refuse_no_users(counts: Mapping[str, DayRowCounts], spec: PipelineSpec) -> None:
    parsed = sum(count.read - count.quarantined for count in counts.values())
    if parsed and parsed == sum(count.anonymous for count in counts.values()):
        raise CorruptDataError(
            f"none of {counted(parsed, 'row')} has a user",
            where=f"columns.user {spec.columns.user}",
            hint="name the column of the user, or that of the key if the logs have no users",
        )


def _anonymous(counts: Mapping[str, DayRowCounts], spec: PipelineSpec) -> str:
    """Share of the parsed rows that have no user; empty if all have one."""
    anonymous = sum(count.anonymous for count in counts.values())
    parsed = sum(count.read - count.quarantined for count in counts.values())
    return f", {anonymous / parsed:.1%} without {spec.columns.user}" if anonymous else ""


def _accounted(rows: RowCounts) -> str:
    parts = [f"{counted(rows.read, 'row')}: {rows.written:,} kept"]
    for count, outcome in (
        (rows.quarantined, "quarantined"),
        (rows.repeated, "repeated key" if rows.repeated == 1 else "repeated keys"),
        (rows.dropped, "sampled away or outside the label's condition"),
    ):
        parts += [f"{count:,} {outcome}"] if count else []
    return ", ".join(parts)
