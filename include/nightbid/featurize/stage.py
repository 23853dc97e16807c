"""Featurize stage: converts sampled rows to model inputs that training reads without parsing.

Writes `split=*/dt=*/part-*.parquet` (the same rows in the same order), `fitted/` (everything that
serving needs) and `profile/` (input of the gates).
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from upath import UPath

from nightbid.config.pipeline import READ_SPLITS, Night
from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.features.fitted import Definition
from nightbid.features.learn import learns_history
from nightbid.features.outcomes import refuse_outcomes
from nightbid.features.values import RawColumns
from nightbid.featurize.days import learn_by_day
from nightbid.featurize.groups import (
    FOOTERS_AT_ONCE,
    HISTORY,
    Group,
    groups_of,
    transformed_groups,
)
from nightbid.featurize.passes import transforming
from nightbid.featurize.reuse import base_of
from nightbid.featurize.runner import PassTicker, passes_on, threads_of
from nightbid.night.days import days_made
from nightbid.night.manifest import RowCounts
from nightbid.night.task import Outcome, StageTask
from nightbid.schema import FeatureSchema

LEARNING_SHARE = 0.4
"""Share of fitting in the time of both passes, as measured once; for the progress bar only."""


def run(task: StageTask) -> Outcome:
    """Fit features to the sampled rows, then transform them.

    Raises:
        MissingDataError: There are no training rows, or a feature's column is missing.
        CorruptDataError: A feature reads an outcome.
    """
    definition = defined(task)
    groups = checked(task.night, definition, groups_of(task.inputs["sample"].path, READ_SPLITS))
    written = transformed_groups(groups)
    rows = sum(group.rows for group in written)
    fitted, output = str(task.output / "fitted"), str(task.output)
    started, cpu = time.monotonic(), time.process_time()
    task.progress(0.0, f"learning from {counted(sum(group.rows for group in groups), 'row')}")

    def look() -> None:
        done = len(list(task.output.glob("split=*/dt=*/part-*.parquet")))
        share = LEARNING_SHARE + (1 - LEARNING_SHARE) * done / len(written)
        task.progress(share, f"transformed {done} of {counted(len(written), 'row group')}")

    threads = threads_of(task.spec.runner)
    with passes_on(task.spec.runner) as run_pass:
        learned = learn_by_day(task, groups, definition, run_pass, threads)
        learning = {
            "learning_seconds": time.monotonic() - started,
            "learning_cpu_seconds": time.process_time() - cpu,
        }
        base = base_of(task, definition, task.output / "fitted")
        with PassTicker(look):
            run_pass(transforming(written, fitted, output, threads, base))
    measured = outcome(UPath(task.output), rows, time.monotonic() - started)
    computed = sorted(set(definition.features) - (base.features if base else set()))
    note = days_made(learned.made, learned.days, unit=task.spec.partition)
    return replace(
        measured,
        metrics={
            **measured.metrics,
            "learned": learned.made,
            **learning,
            "computed": computed,
            "day_outputs": learned.outputs,
        },
        summary=f"{measured.summary}; learned from {note}"
        + (f"; {_computed(computed)}" if base else ""),
    )


def _computed(names: list[str]) -> str:
    if not names:
        return "all columns taken from an earlier night"
    return f"computed {', '.join(names)} alone, the other columns were there"


def outcome(output: UPath, rows: int, seconds: float) -> Outcome:
    """Build the outcome of the stage.

    Args:
        output: Folder of the output, local or in a bucket.
        rows: Number of rows, the same in input and output.
        seconds: Duration of the stage.
    """
    inputs = FeatureSchema.load(output / "fitted").inputs
    features = {model_input.feature for model_input in inputs}
    rates = _oov_rates(output, "evaluate")
    worst = max(rates.items(), key=lambda pair: pair[1], default=None)
    return Outcome(
        rows=RowCounts(read=rows, written=rows),
        metrics={
            "inputs": len(inputs),
            "oov_rate": rates,
            "oov_rate_train": _oov_rates(output, "train"),
            "unreadable": _unreadable(output),
            "rows_per_second": rows / seconds,
        },
        summary=f"{counted(len(features), 'feature')}, {counted(len(inputs), 'input')}"
        + (f", most OOV: {worst[0]} {worst[1]:.2%}" if worst and worst[1] else ""),
    )


def defined(task: StageTask) -> Definition:
    """Definition of the features of a night.

    Raises:
        CorruptDataError: A feature reads an outcome. Sampling rejects that too, but rows that were
            sampled or frozen before the feature was added are reused.
    """
    refuse_outcomes(task.spec, task.inputs["sample"].manifest.metrics.get("outcomes", ()))
    return Definition.of(task.spec)


def checked(night: Night, definition: Definition, groups: list[Group]) -> list[Group]:
    """Reject invalid inputs before workers are started.

    Raises:
        MissingDataError: There are no training rows, or a feature's column is missing.
    """
    if not any(group.split == "train" for group in groups):
        raise MissingDataError(
            "no training rows",
            where=f"{night.train[0]} to {night.train[-1]}",
            hint="use a later date, or a label condition that some rows meet",
        )
    # Each file has its own schema: a missing column is reported here, not by a worker.
    files = list({group.path: group for group in groups}.values())
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        for file, empty in zip(files, pool.map(Group.empty, files), strict=True):
            rows = RawColumns(empty)
            for name, feature in definition.features.items():
                if file.split == HISTORY and not learns_history(feature):
                    continue
                for column in feature.sources(name):
                    rows.column(column, f"{name}, {file.day}")
    return groups


def _oov_rates(output: UPath, split: str) -> dict[str, float]:
    """Share of a split's ids that are out of vocabulary, by input."""
    path = output / "profile" / f"oov-{split}.json"
    if not path.exists():
        return {}
    counts = json.loads(path.read_text())
    return {name: outside / max(known, 1) for name, (outside, known) in counts.items()}


def _unreadable(output: UPath) -> dict[str, dict[str, dict[str, object]]]:
    """Split → feature → number of invalid numbers or times, and an example."""
    paths = sorted((output / "profile").glob("unreadable-*.json"))
    return {
        path.name.removeprefix("unreadable-").removesuffix(".json"): json.loads(path.read_text())
        for path in paths
    }
