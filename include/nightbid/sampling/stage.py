"""Sampling: the days of one night, as rows that can be trained on.

Each day is made once (`nightbid.sampling.day`) and shared by all nights, runs and pipelines whose
key of the day is the same; the night's own files are links to those of its days.

Writes `split=*/dt=*/part-00000.parquet`, rows that could not be parsed in `quarantine/`, and a
profile of every day's parsed rows, sampled away or not. Of the days to evaluate, a stable sample
of the same rows lies in `rows/`, for the gate's expectations on single rows.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from nightbid.config.pipeline import READ_SPLITS, Night, PipelineSpec, Split, named_columns
from nightbid.data.day_names import SPELLED
from nightbid.data.source import Source, open_source
from nightbid.data.user_keys import UserKeys
from nightbid.errors import MissingDataError
from nightbid.features.outcomes import refuse_outcomes
from nightbid.night.days import DayOutput, Made, day_output, days_made, known_output
from nightbid.night.manifest import Rows
from nightbid.night.task import Outcome, StageTask
from nightbid.sampling.day import (
    ASIDE,
    PROFILE,
    ROWS,
    SOME,
    DayCount,
    key_of,
    listed,
    make,
    make_thinner,
)
from nightbid.sampling.frozen import place
from nightbid.storage.digests import kept_digest
from nightbid.storage.verify import link_or_copy


def run(task: StageTask) -> Outcome:
    """Sample every day of the night's window.

    Raises:
        MissingDataError: a day or a column is absent, or the window is longer than the history.
        CorruptDataError: a day is empty or unreadable, or the label is not binary; or a frozen
            data set is not what was frozen.
        ConfigError: a frozen data set is of another night, or of rows that mean something else.
    """
    if name := task.spec.sampling.frozen:
        return _frozen(task, name)
    night = with_known_history(task.spec, task.night, task.cache)
    window = [(split, day) for split in READ_SPLITS for day in night.days(split)]
    named = named_columns(task.spec)
    source = open_source(task.spec.source, task.cache, [day for _, day in window], named)
    check_window(source, night)
    roles = task.spec.columns
    known = {*source.meaning.outcomes, *source.meaning.truth.values()}
    never = (
        roles.price, roles.bid, roles.value, roles.competing, roles.propensity, roles.weight,
        roles.conversion,
    )  # fmt: skip
    outcomes = sorted(known | set(filter(None, never)))
    refuse_outcomes(task.spec, outcomes)
    counts: dict[str, DayCount] = {}
    made: dict[str, str] = {}
    keys: dict[str, str] = {}
    for number, (split, day) in enumerate(window):
        task.progress(number / len(window), f"{day} → {split}")
        found = _placed(task, source, split, day)
        counts[str(day)] = DayCount.from_json(found.manifest.metrics["count"])
        keys[str(day)] = found.key
        if found.why:
            made[str(day)] = found.why
    each_rows = [each.to_rows() for each in counts.values()]
    names = ("read", "written", "quarantined", "repeated", "dropped")
    total = Rows(**{name: sum(getattr(each, name) for each in each_rows) for name in names})
    weight = sum(each.weight for each in counts.values())
    rate = sum(each.positives for each in counts.values()) / weight if weight else 0.0
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
            "days": {name: each.to_json() for name, each in counts.items()},
            "quarantine": reasons,
            "quarantine_examples": examples,
            "outcomes": outcomes,
            "day_outputs": keys,
            "made": made,
        },
        summary=f"{days_made(made, len(counts))}, {_history(night, task.night)}"
        f"{_rate_word(task.spec)} {rate:.4f}, {_accounted(total)}"
        + (f", quarantined: {listed(reasons, examples)}" if reasons else ""),
    )


def _placed(task: StageTask, source: Source, split: Split, day: date) -> DayOutput:
    """Make or find the rows of a day, and put them where the night's files lie."""
    key, whole_key = (
        key_of(source, task.spec, each, day, lambda path: kept_digest(path, task.cache))
        for each in (split, "evaluate")
    )
    targets = {
        ROWS: f"split={split}/dt={day}/part-00000.parquet",
        ASIDE: f"quarantine/dt={day}/part-00000.parquet",
        PROFILE: f"profile/dt={day}.json",
    }
    if split == "evaluate":
        targets[SOME] = f"rows/dt={day}.parquet"

    def sampled(folder: Path) -> Made:
        whole = known_output(task.workspace, whole_key) if whole_key.digest != key.digest else None
        made = make_thinner(folder, whole, task.spec) if whole else None
        return made or make(folder, source, task.spec, split, day)

    found = day_output(
        task.workspace,
        key,
        sampled,
        pipeline=task.spec.pipeline,
        run_id=task.run_id,
    )
    for each in found.manifest.files:
        if each.path in targets:
            link_or_copy(found.folder / each.path, task.output / targets[each.path])
    return found


def _frozen(task: StageTask, name: str) -> Outcome:
    found = place(task.workspace, name, task.spec, task.night, task.output)
    rate = found.metrics.get("label_rate")
    return Outcome(
        rows=found.rows,
        metrics=found.metrics,
        summary=f"{found.rows.written:,} rows of the frozen data set {name}, every byte checked"
        + (f", {_rate_word(task.spec)} {rate:.4f}" if rate is not None else ""),
    )


def fingerprint(spec: PipelineSpec, night: Night, cache: Path) -> str:
    """Tell the night's raw logs apart from others: changed logs are sampled again."""
    if spec.sampling.frozen:
        return f"frozen as {spec.sampling.frozen}"  # what a name stands for never changes
    known = with_known_history(spec, night, cache)
    days = (*known.history, *night.train, *night.validate_, *night.evaluate)
    found = open_source(spec.source, cache, days, named_columns(spec)).fingerprint(days)
    keys = UserKeys.of(spec)
    return f"{found} keyed {keys.fingerprint}" if keys else found


def with_known_history(spec: PipelineSpec, night: Night, cache: Path) -> Night:
    """Leave out the history days before the first day of the logs; a gap later on stays."""
    if not night.history:
        return night
    days = open_source(spec.source, cache).days()
    first = days[0] if days else getattr(spec.source, "start", None)
    if first is None:
        return night
    kept = tuple(day for day in night.history if day >= first)
    return night.model_copy(update={"history": kept})


def _history(known: Night, asked: Night) -> str:
    if not asked.history:
        return ""
    found = len(known.history)
    of = "" if found == len(asked.history) else f" of {len(asked.history)}"
    return f"{found}{of} of them for history only, "


def check_window(source: Source, night: Night) -> None:
    """Refuse a window that the source does not cover, naming what is there.

    Raises:
        MissingDataError: as said.
    """
    known = source.days()
    if known is None:
        return
    wanted = (*night.history, *night.train, *night.validate_, *night.evaluate)
    missing = [day for day in wanted if day not in set(known)]
    if not missing:
        return
    if not known:
        raise MissingDataError(
            "no file of the folder belongs to a day",
            where="source",
            hint=f"name days {SPELLED}",
        )
    if missing[0] == wanted[0] and wanted[0] < known[0]:
        raise MissingDataError(
            f"the window of {len(wanted)} days starts on {wanted[0]}, but the logs start on"
            f" {known[0]}",
            where="window",
            hint="shorten window.train_days or take a later date",
        )
    raise MissingDataError(
        f"{len(missing)} of {len(wanted)} days are missing: {', '.join(map(str, missing[:5]))}",
        where="source",
        hint=f"the logs go from {known[0]} to {known[-1]}; load the missing days, or take"
        " another date",
    )


def _rate_word(spec: PipelineSpec) -> str:
    return "mean value" if spec.label.kind == "value" else "label rate"


def _accounted(rows: Rows) -> str:
    parts = [f"{rows.read:,} rows: {rows.written:,} kept"]
    for count, what in (
        (rows.quarantined, "quarantined"),
        (rows.repeated, "repeated keys"),
        (rows.dropped, "sampled away or outside the label's condition"),
    ):
        parts += [f"{count:,} {what}"] if count else []
    return ", ".join(parts)
