"""Runs a stage: reuses or computes its output, meters, commits and records it.

The output is written under a temporary name, with its manifest last, and then renamed atomically. A
killed stage leaves nothing that a later attempt could mistake for a result.

A stage that runs as a cloud job is *begun* (the job is submitted) and *finished* after the job has
ended, by the same process or by another one: see `nightbid.jobs`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from upath import UPath

from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.budget import BudgetGuard, limits_of, recover_usage_logs
from nightbid.cost.entries import MACHINE
from nightbid.cost.ledger import record_stage_usage
from nightbid.cost.meter import ProcessMeter
from nightbid.errors import (
    BudgetExceeded,
    GateStopped,
    NightbidError,
    StageError,
    TrialPruned,
)
from nightbid.jobs.follow import remote_stage_of, wait
from nightbid.jobs.job import DeferredJob, MayNeedNoJob
from nightbid.jobs.store import (
    JobRecord,
    cancel_other_jobs,
    close,
    open_job,
    raise_unless_succeeded,
    submit_once,
    write,
)
from nightbid.machine import fewer_collections
from nightbid.night.attempts import StageRecord
from nightbid.night.key import Plan, output_digest
from nightbid.night.manifest import FileEntry, Manifest, Usage
from nightbid.night.progress import EpochWatcher, Progress, silent, unwatched
from nightbid.night.record import RunRecord
from nightbid.night.sealed import seal
from nightbid.night.source import check_late_imports
from nightbid.night.stage import Stage
from nightbid.night.task import Outcome, StageResult, StageTask
from nightbid.storage.verify import inventory

log = logging.getLogger(__name__)


def run_stage(
    stage: Stage,
    spec: PipelineSpec,
    run: RunRecord,
    *,
    cache_folder: Path,
    attempt: int = 1,
    progress: Progress = silent,
    watch: EpochWatcher = unwatched,
) -> StageResult:
    """Run a stage of a run to its end, or reuse its output; waits for a cloud job.

    Args:
        stage: Stage to run.
        spec: Pipeline with overrides applied.
        run: Record of the run, which has the earlier stages and to which this one is added.
        cache_folder: Folder for downloads and derived files.
        attempt: Number of the attempt, from 1; each attempt costs money and is recorded.
        progress: Callback for the progress of the stage.
        watch: Callback for the metrics of a training after each epoch; an exception that it raises
            ends the stage.

    Raises:
        GateStopped: The stage is a gate with the verdict stop; its output is committed.
        NightbidError: Another error that a user can act upon; no output is left.
    """
    result = begin_stage(
        stage,
        spec,
        run,
        cache_folder=cache_folder,
        attempt=attempt,
        progress=progress,
        watch=watch,
    )
    while isinstance(result, DeferredJob):
        wait(result, run, progress)
        result = finish_stage(stage, spec, run, cache_folder=cache_folder, progress=progress)
    return result


def begin_stage(
    stage: Stage,
    spec: PipelineSpec,
    run: RunRecord,
    *,
    cache_folder: Path,
    attempt: int = 1,
    progress: Progress = silent,
    watch: EpochWatcher = unwatched,
) -> StageResult | DeferredJob:
    """Reuse the output, compute it here, or submit a cloud job without waiting for it.

    If a process that is gone has submitted a job for the same output, that job is resumed.

    Args: see `run_stage`.

    Returns:
        The result, or the job, after whose end `finish_stage` is called.

    Raises: see `run_stage`.
    """
    run.check_is_ours()
    plan = Plan.of(stage, spec, run, cache_folder)
    work = remote_stage_of(stage, spec)
    if (manifest := plan.found()) is not None:
        if work is not None:
            cancel_other_jobs(run, stage.name, "", work.service)
        return _reuse(plan, manifest, attempt)
    if work is None:
        return _Attempt(plan, _fresh(run, stage, attempt), cache_folder, progress, watch).run(
            stage.load()
        )
    cancel_other_jobs(run, stage.name, plan.key, work.service)
    job_record = open_job(run, stage.name, plan.key)
    if job_record is not None and job_record.job_id:
        log.info("%s: resuming job %s", stage.name, job_record.job_id)
        return DeferredJob(job_record, work.service)
    number = job_record.attempt if job_record else _fresh(run, stage, attempt)

    def submit(task: StageTask) -> Outcome | DeferredJob:
        if job_record is None and isinstance(work, MayNeedNoJob):
            outcome = work.without_job(task)
            if outcome is not None:
                return outcome
        record = job_record or JobRecord.new(plan, number, work.service.kind)
        return DeferredJob(submit_once(run, record, work, task), work.service)

    return _Attempt(plan, number, cache_folder, progress, watch).run(submit)


def finish_stage(
    stage: Stage,
    spec: PipelineSpec,
    run: RunRecord,
    *,
    cache_folder: Path,
    progress: Progress = silent,
) -> StageResult | DeferredJob:
    """Collect the output of a begun stage's job, if the job has ended.

    Returns:
        The result; or a job, if the job is still running or the stage was started over because its
        inputs have changed.

    Raises:
        BudgetExceeded: The job was canceled because of its cost.
        StageError: The job failed or was canceled; the next attempt submits another job.
        ServiceError: The service does not answer; the next attempt asks again.
    """
    plan = Plan.of(stage, spec, run, cache_folder)
    work = remote_stage_of(stage, spec)
    job_record = open_job(run, stage.name, plan.key)
    if work is None or job_record is None or not job_record.job_id or plan.found() is not None:
        return begin_stage(stage, spec, run, cache_folder=cache_folder, progress=progress)
    if work.service.look(job_record.job_id).state in ("waiting", "running"):
        return DeferredJob(job_record, work.service)

    def collect(task: StageTask) -> Outcome:
        raise_unless_succeeded(run, job_record, work.service, spec.budget)
        return work.collect(task, job_record)

    attempt = _Attempt(plan, job_record.attempt, cache_folder, progress, before=job_record)
    try:
        result = attempt.run(collect)
    except (BudgetExceeded, StageError):
        # This job will never have a result; other errors may be temporary.
        close(run, job_record)
        raise
    close(run, job_record)
    return result


def _fresh(run: RunRecord, stage: Stage, attempt: int) -> int:
    """Get an unused attempt number, after recording the usage of earlier attempts."""
    # The usage of a killed attempt is in its usage log and counts too.
    recover_usage_logs(run)
    if run.usage_file(stage.name, attempt).exists():
        return run.next_attempt(stage.name)
    return attempt


def _reuse(plan: Plan, manifest: Manifest, attempt: int) -> StageResult:
    run, stage = plan.run, plan.stage.name
    began = {number for name, number in run.usage_logs() if name == stage}
    if began - {record.attempt for record in run.records() if record.stage == stage}:
        # An attempt was killed after committing its output; its usage log has its usage.
        recover_usage_logs(run)
    result = StageResult(manifest, plan.uri, reused=True)
    _record(plan, result, attempt, datetime.now(UTC), 0.0)
    _stop_if_told(plan.stage, result)
    return result


class _Attempt:
    """An attempt at an output: metered, committed or discarded, and recorded in either case.

    Args:
        plan: Plan of the output.
        number: Number of the attempt, from 1.
        cache_folder: Folder for downloads and derived files.
        progress: Callback for the progress of the attempt.
        watch: Callback for the metrics of a training after each epoch.
        before: Record of the job that has done the work; None if the work is done here.
    """

    def __init__(
        self,
        plan: Plan,
        number: int,
        cache_folder: Path,
        progress: Progress,
        watch: EpochWatcher = unwatched,
        before: JobRecord | None = None,
    ) -> None:
        self._plan = plan
        self._number = number
        self._cache = cache_folder
        self._progress = progress
        self._watch = watch
        self._spent = before.usage if before else Usage()
        self._started = before.started if before else datetime.now(UTC)
        self._is_begun = before is not None
        self._began = time.monotonic()

    def run(self, work: Callable[[StageTask], Outcome | DeferredJob]) -> StageResult | DeferredJob:
        """Do the work or submit its job; the usage is metered and recorded in either case."""
        plan, run = self._plan, self._plan.run
        workspace = run.workspace
        guard = self._breaker()
        scratch = workspace.scratch(plan.final)
        checkpoints = workspace.checkpoint_folder(plan.spec.pipeline, plan.stage.name, plan.key)
        workspace.delete_old_checkpoints(checkpoints)
        meter = ProcessMeter(run.usage_file(plan.stage.name, self._number), judge=guard)
        try:
            with meter, fewer_collections():
                outcome = work(self._task(scratch, checkpoints, meter))
                files = (
                    inventory(Path(str(scratch)), outcome.volatile)
                    if isinstance(outcome, Outcome)
                    else ()
                )
            if isinstance(outcome, DeferredJob):
                workspace.discard(scratch)
                spent = outcome.job_record.model_copy(update={"usage": self._spent + meter.usage})
                write(run, spent)
                return DeferredJob(spent, outcome.service)
            check_late_imports([plan.stage.function], plan.loaded)
            manifest = self._manifest(outcome, files, self._spent + meter.usage)
            (scratch / "manifest.json").write_text(seal(manifest))
            workspace.commit(scratch, plan.final, is_whole=not outcome.elsewhere)
            workspace.discard(checkpoints)
        except BaseException as error:
            meter.close()
            workspace.discard(scratch)
            if isinstance(error, TrialPruned):
                workspace.discard(checkpoints)
            self._record_failure(error, self._spent + meter.usage)
            if isinstance(error, (NightbidError, KeyboardInterrupt, SystemExit)):
                raise
            raise StageError(
                f"{type(error).__name__}: {error}",
                where=f"stage {plan.stage.name} of {run.run_id}",
                hint="see the traceback above; nothing was written, a rerun is safe",
            ) from error
        result = StageResult(manifest, plan.uri, reused=False)
        # Record the costs before the attempt: a rerun records those of attempts without a record.
        self._enter_cost(self._spent + meter.usage, "done")
        if outcome.usage != Usage() and outcome.service:
            self._enter_cost(outcome.usage, "done", outcome.service)
        _record(plan, result, self._number, self._started, self._seconds())
        _stop_if_told(plan.stage, result)
        return result

    def _breaker(self) -> BudgetGuard:
        spec, run = self._plan.spec, self._plan.run
        limits = limits_of(
            spec.budget,
            run.workspace,
            pipeline=spec.pipeline,
            run_id=run.run_id,
            stage=self._plan.stage.name,
            attempt=self._number,
            at=self._started,
        )
        guard = BudgetGuard(limits, self._started, warn_at=spec.budget.warn_at)
        if not self._is_begun:
            guard.check_before()
        return guard

    def _task(self, scratch: UPath, checkpoints: UPath, meter: ProcessMeter) -> StageTask:
        plan = self._plan
        return StageTask(
            spec=plan.spec,
            night=plan.night,
            run_id=plan.run.run_id,
            inputs=plan.inputs,
            history=plan.history,
            earlier_champions=plan.earlier_champions,
            no_reference=plan.no_reference,
            continuation=plan.continuation,
            output=Path(str(scratch)),
            workspace=plan.run.workspace,
            cache=self._cache,
            progress=meter.follow(self._progress),
            checkpoints=Path(str(checkpoints)),
            watch=self._watch,
        )

    def _manifest(self, outcome: Outcome, files: tuple[FileEntry, ...], spent: Usage) -> Manifest:
        plan = self._plan
        files = (*files, *outcome.elsewhere)
        return Manifest(
            pipeline=plan.spec.pipeline,
            run_id=plan.run.run_id,
            stage=plan.stage.name,
            night=plan.run.date.isoformat(),
            key=plan.key,
            digest=output_digest(files),
            inputs={name: output.manifest.digest for name, output in plan.inputs.items()},
            spec_digest=plan.spec_digest,
            code_digest=plan.code_digest,
            versions=dict(plan.versions),
            seed=plan.spec.seed,
            rows=outcome.rows,
            usage=spent + outcome.usage,
            metrics=dict(outcome.metrics),
            verdict=outcome.verdict,
            summary=outcome.summary,
            files=files,
            created=datetime.now(UTC),
        )

    def _record_failure(self, error: BaseException, spent: Usage) -> None:
        record = StageRecord(
            stage=self._plan.stage.name,
            attempt=self._number,
            state="failed",
            started=self._started,
            seconds=self._seconds(),
            usage=spent,
            error=str(error) or type(error).__name__,
        )
        # Recording may fail too (such as on a full disk), but the original failure matters more.
        # The usage log keeps the usage for the next attempt.
        try:
            self._plan.run.record(record)
        except OSError as second:
            log.warning("failure not recorded: %s", second)
        try:
            self._enter_cost(spent, "failed")
        except (NightbidError, OSError) as second:
            log.warning("cost not recorded: %s", second)

    def _seconds(self) -> float:
        if not self._is_begun:
            return time.monotonic() - self._began  # independent of changes of the clock
        return max(0.0, (datetime.now(UTC) - self._started).total_seconds())

    def _enter_cost(self, usage: Usage, state: str, service: str = MACHINE) -> None:
        run = self._plan.run
        record_stage_usage(
            run.workspace,
            pipeline=run.head.pipeline,
            run_id=run.run_id,
            stage=self._plan.stage.name,
            attempt=self._number,
            usage=usage,
            started=self._started,
            state=state,
            service=service,
        )


def _stop_if_told(stage: Stage, result: StageResult) -> None:
    if result.manifest.verdict == "stop":
        raise GateStopped(
            result.manifest.summary,
            where=stage.name,
            hint=f"full result in {result.uri}",
        )


def _record(
    plan: Plan, result: StageResult, attempt: int, started: datetime, seconds: float
) -> None:
    manifest = result.manifest
    plan.run.record(
        StageRecord(
            stage=plan.stage.name,
            attempt=attempt,
            state="stopped" if manifest.verdict == "stop" else "done",
            uri=result.uri,
            reused=result.reused,
            started=started,
            seconds=seconds,
            usage=Usage() if result.reused else manifest.usage,
            verdict=manifest.verdict,
            summary=manifest.summary,
        )
    )
