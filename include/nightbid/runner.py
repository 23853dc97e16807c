"""Running one stage: reuse or compute, meter, commit, record.

The output is written under a temporary name, its manifest last, and renamed in one step. A killed
stage leaves nothing that a later one can mistake for a result.

A stage whose work a job of a cloud service does is *begun* (the job is submitted), left, and
*finished* once the job has ended, by the same process or by another: see `nightbid.jobs`.
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
    """Run one stage of a run to its end, or reuse its output; a job elsewhere is waited for.

    Args:
        stage: which.
        spec: the pipeline, overrides applied.
        run: the run's record: earlier stages are looked up there, this one is added.
        cache_folder: for downloads and derived files.
        attempt: 1 for the first try; retries cost money too and are recorded each.
        progress: told how far the stage is.
        watch: told how good a training is after each epoch; what it raises ends the stage.

    Raises:
        GateStopped: the stage is a gate and its verdict is stop; its output is committed.
        NightbidError: anything else that a user can act upon; no output is left.
    """
    found = begin_stage(
        stage,
        spec,
        run,
        cache_folder=cache_folder,
        attempt=attempt,
        progress=progress,
        watch=watch,
    )
    while isinstance(found, DeferredJob):
        wait(found, run, progress)
        found = finish_stage(stage, spec, run, cache_folder=cache_folder, progress=progress)
    return found


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
    """Reuse the output, or compute it here, or have a job compute it and do not wait.

    A job that was submitted for the same output before, by a process that is gone, is taken up.

    Args: see `run_stage`.

    Returns:
        The result, or the job whose end `finish_stage` needs.

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
        log.info("%s: taking up job %s", stage.name, job_record.job_id)
        return DeferredJob(job_record, work.service)
    number = job_record.attempt if job_record else _fresh(run, stage, attempt)

    def submit(task: StageTask) -> Outcome | DeferredJob:
        if job_record is None and isinstance(work, MayNeedNoJob):
            made = work.without_job(task)
            if made is not None:
                return made
        mine = job_record or JobRecord.new(plan, number, work.service.kind)
        return DeferredJob(submit_once(run, mine, work, task), work.service)

    return _Attempt(plan, number, cache_folder, progress, watch).run(submit)


def finish_stage(
    stage: Stage,
    spec: PipelineSpec,
    run: RunRecord,
    *,
    cache_folder: Path,
    progress: Progress = silent,
) -> StageResult | DeferredJob:
    """Collect what the job of a stage that was begun has made, if it has ended.

    Returns:
        The result, or the job again: it is still running, or the stage was started over because
        its inputs have changed.

    Raises:
        BudgetExceeded: the job was canceled for its cost.
        StageError: the job failed or was canceled; a further attempt is another job.
        ServiceError: the service does not answer; a further attempt asks again.
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
        # This job will never give a result; what else can fail here may be asked again.
        close(run, job_record)
        raise
    close(run, job_record)
    return result


def _fresh(run: RunRecord, stage: Stage, attempt: int) -> int:
    """Give the attempt a number of its own, once what earlier ones have spent is entered."""
    # What a killed attempt spent is in its trail: it counts too.
    recover_usage_logs(run)
    if run.usage_file(stage.name, attempt).exists():
        return run.next_attempt(stage.name)
    return attempt


def _reuse(plan: Plan, manifest: Manifest, attempt: int) -> StageResult:
    run, stage = plan.run, plan.stage.name
    began = {number for name, number in run.usage_logs() if name == stage}
    if began - {each.attempt for each in run.records() if each.stage == stage}:
        # An attempt was killed after it committed its output: what it spent is in its trail.
        recover_usage_logs(run)
    result = StageResult(manifest, plan.uri, reused=True)
    _record(plan, result, attempt, datetime.now(UTC), 0.0)
    _stop_if_told(plan.stage, result)
    return result


class _Attempt:
    """One attempt at an output: metered, then committed or thrown away, and recorded either way.

    Args:
        plan: of what.
        number: of the attempt.
        cache_folder: for downloads and derived files.
        progress: told how far it is.
        watch: told how good a training is.
        before: the order that was placed for it, if a job has done the work.
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
        """Do the work, or order it; what it used is metered and entered in either case."""
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
        # Costs before the record: an attempt without a record is entered by the rerun.
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
            inputs={name: each.manifest.digest for name, each in plan.inputs.items()},
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
        # The failure itself matters more (a full disk, say, meets its record too); the trail holds
        # the usage for the next attempt.
        try:
            self._plan.run.record(record)
        except OSError as second:
            log.warning("failure not recorded: %s", second)
        try:
            self._enter_cost(spent, "failed")
        except (NightbidError, OSError) as second:
            log.warning("cost not entered: %s", second)

    def _seconds(self) -> float:
        if not self._is_begun:
            return time.monotonic() - self._began  # whatever the clock does meanwhile
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
