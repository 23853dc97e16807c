"""Batch scoring: a metered stage that scores a day of the logs with the champion.

The stage is not part of a night. It has its own run, named after champion and day. The run takes
`export` and `evaluate` from the night that trained the champion; its `sample` reads the requested
day.
"""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import are, counted
from nightbid.errors import ConfigError, CorruptDataError, DataError, MissingDataError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.manifest import RowCounts
from nightbid.night.progress import Progress, silent
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.night.stages import stage_named
from nightbid.night.task import Outcome, StageOutput, StageTask
from nightbid.runner import run_stage
from nightbid.schema import KEY, split_files
from nightbid.serving.batch import score_files
from nightbid.storage.workspace import Workspace

SCORE = Stage(
    "score",
    "nightbid.serving.score_stage:run",
    inputs=("sample", "export", "evaluate"),
    spec_keys=("columns", "runner"),
)
NOT_A_NIGHT = "batch scoring"
"""Reason for not listing such a run among the nights."""
FACTOR = 2.0
"""Maximum ratio, in either direction, of the mean prediction to that of the evaluation."""
SURE_ROWS = 1000
"""Minimum number of rows for checking the mean."""


def score_day(
    workspace: Workspace,
    pipeline: str,
    date: dt.date | None = None,
    *,
    cache_folder: Path,
    trigger: str = "shell",
    progress: Progress = silent,
) -> tuple[Champion, StageOutput]:
    """Score all rows of a day with the champion, or reuse existing scores.

    Args:
        workspace: Workspace with the champion and its night.
        pipeline: Name of the pipeline.
        date: Day of the logs; None means the newest day of the champion's night.
        cache_folder: Folder for downloads.
        trigger: Origin of the request: `shell` or `airflow`.
        progress: Progress callback.

    Returns:
        The champion and the stage's result: a folder `scores/dt=…` of Parquet files.

    Raises:
        ConfigError: There is no champion.
        NightbidError: The champion's night is gone, the day has no rows, or the scores look wrong.
    """
    champion = ChampionPointer(workspace, pipeline).current()
    if champion is None:
        raise ConfigError(
            "there is no champion",
            where=pipeline,
            hint=f"run a night; `nightbid champion {pipeline}` shows the history",
        )
    trained = RunRecord.load(workspace, pipeline, champion.run_id)
    spec = PipelineSpec.model_validate(trained.head.spec)
    day = spec.partition_at(date) if date else champion.night
    run = RunRecord.start(
        workspace, spec, day, run_id=f"score-{champion.number}-{day}", trigger=trigger,
        sweep=NOT_A_NIGHT, until=SCORE.name,
    )  # fmt: skip
    for name in ("export", "evaluate", *(["sample"] if day == trained.date else [])):
        record = trained.stage(name)
        if record is None or not record.uri:
            raise MissingDataError(
                f"stage {name!r} of the champion's night has no output",
                where=champion.run_id,
                hint="roll back to another champion, or run a night",
            )
        run.record(record.model_copy(update={"reused": True}))
    if day != trained.date:
        run_stage(
            stage_named("sample"), spec, run, cache_folder=cache_folder,
            attempt=run.next_attempt("sample"), progress=progress,
        )  # fmt: skip
    bundle = workspace.uri(workspace.at(champion.bundle_uri))
    exported = run.stage("export")
    if exported is None or workspace.uri(workspace.at(exported.uri)) != bundle:
        raise CorruptDataError(
            f"champion #{champion.number} is not what run {champion.run_id!r} exported last",
            where=champion.bundle_uri,
            hint="promote another night, or roll back",
        )
    result = run_stage(
        SCORE, spec, run, cache_folder=cache_folder, attempt=run.next_attempt(SCORE.name),
        progress=progress,
    )  # fmt: skip
    return champion, result


def run(task: StageTask) -> Outcome:
    """Score the newest day of the sampled rows with Beam, and check the scores.

    Raises:
        MissingDataError: The day has no rows.
        DataError: The scores look wrong.
    """
    day = f"dt={task.night.date.isoformat()}"
    files = [
        file
        for file in split_files(task.inputs["sample"].path, "evaluate")
        if file.parent.name == day
    ]
    if not files:
        raise MissingDataError(
            f"no rows of {task.night.date}", where="sample", hint="use another --date"
        )
    names = pq.read_schema(files[0]).names
    columns = task.spec.columns
    identifiers = [KEY, columns.key, columns.user, columns.item, columns.time]
    keep = list(dict.fromkeys(name for name in identifiers if name and name in names))
    export = task.inputs["export"]
    summary = score_files(
        export.path,
        files[0].parent,
        task.output / "scores" / day,
        keep=keep,
        described={"bundle": export.manifest.digest},
        runner=task.spec.runner,
    )
    expected = _expected(task.inputs["evaluate"].manifest.metrics)
    kind = "mean_value" if "mean_value" in summary else "mean_probability"
    check(summary, sum(pq.ParquetFile(file).metadata.num_rows for file in files), expected)
    return Outcome(
        rows=RowCounts(read=summary["rows"], written=summary["rows"]),
        metrics={**summary, "evaluated_mean": expected},
        summary=f"{counted(summary['rows'], 'row')} of {task.night.date} scored,"
        f" {kind.replace('_', ' ')} {summary[kind]:.4f}, {summary['rows_per_second']:,.0f} rows/s",
        volatile=(f"scores/{day}/scores.json",),
    )


def check(result: dict[str, Any], rows: int, expected: float | None) -> None:
    """Check scores before they are published.

    Args:
        result: Result of `score_files`.
        rows: Number of rows that were read.
        expected: Mean prediction in the evaluation; None if unknown.

    Raises:
        DataError: Rows are missing, a score is invalid, or the mean is far off.
    """
    if result["rows"] != rows:
        fault = f"{counted(result['rows'], 'score')} for {counted(rows, 'row')}"
        hint = "run it again"
    elif result.get("not_probabilities") or result.get("not_values"):
        kind = "values" if "not_values" in result else "probabilities"
        count = result[f"not_{kind}"]
        fault = f"{counted(count, 'score')} {are(count)} no {kind}"
        hint = "roll back, and check the gates of the champion's night"
    elif (
        expected
        and rows >= SURE_ROWS
        and not 1 / FACTOR <= (_mean(result) or math.nan) / expected <= FACTOR
    ):
        kind = "value" if "mean_value" in result else "probability"
        fault = f"the mean {kind} is {_mean(result):.4g}, not near {expected:.4g}"
        hint = "compare the day with the evaluation's: `nightbid data` and the raw gate"
    else:
        return
    raise DataError(fault, where="scores", hint=hint)


def _mean(result: dict[str, Any]) -> float | None:
    mean: float | None = result.get("mean_value", result.get("mean_probability"))
    return mean


def _expected(metrics: Any) -> float | None:
    calibration = (metrics.get("candidate") or {}).get("calibration")
    rate = metrics.get("label_rate")
    return float(calibration) * float(rate) if calibration and rate else None
