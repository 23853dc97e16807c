"""Runs a stage: reuses its output, or makes an attempt at it (`nightbid.attempt`).

A stage that runs as a cloud job is *begun* (the job is submitted) and *finished* after the job has
ended, by the same process or by another one: see `nightbid.jobs`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from nightbid.attempt import Attempt, record_failure, record_result, stop_if_told
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.budget import recover_usage_logs
from nightbid.errors import BudgetExceeded, NightbidError, StageError
from nightbid.jobs.follow import remote_stage_of, wait
from nightbid.jobs.job import DeferredJob, MayNeedNoJob
from nightbid.jobs.store import (
    JobRecord,
    cancel_other_jobs,
    close,
    open_job,
    raise_unless_succeeded,
    submit_once,
)
from nightbid.night.key import Plan
from nightbid.night.manifest import Manifest
from nightbid.night.progress import EpochWatcher, Progress, silent, unwatched
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.night.task import Outcome, StageOutput, StageTask

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
) -> StageOutput:
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
) -> StageOutput | DeferredJob:
    """Reuse the output, compute it here, or submit a cloud job without waiting for it.

    If a process that is gone has submitted a job for the same output, that job is resumed.

    Args: see `run_stage`.

    Returns:
        The result, or the job, after whose end `finish_stage` is called.

    Raises: see `run_stage`.
    """
    run.check_is_ours()
    plan = _planned(stage, spec, run, cache_folder, attempt)
    work = remote_stage_of(stage, spec)
    if (manifest := plan.found()) is not None:
        if work is not None:
            cancel_other_jobs(run, stage.name, "", work.service)
        return _reuse(plan, manifest, attempt)
    if work is None:
        return Attempt(plan, _fresh(run, stage, attempt), cache_folder, progress, watch).run(
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

    return Attempt(plan, number, cache_folder, progress, watch).run(submit)


def finish_stage(
    stage: Stage,
    spec: PipelineSpec,
    run: RunRecord,
    *,
    cache_folder: Path,
    progress: Progress = silent,
) -> StageOutput | DeferredJob:
    """Collect the output of a begun stage's job, if the job has ended.

    Returns:
        The result; or a job, if the job is still running or the stage was started over because its
        inputs have changed.

    Raises:
        BudgetExceeded: The job was canceled because of its cost.
        StageError: The job failed or was canceled; the next attempt submits another job.
        ServiceError: The service does not answer; the next attempt asks again.
    """
    plan = _planned(stage, spec, run, cache_folder, run.next_attempt(stage.name))
    work = remote_stage_of(stage, spec)
    job_record = open_job(run, stage.name, plan.key)
    if work is None or job_record is None or not job_record.job_id or plan.found() is not None:
        return begin_stage(stage, spec, run, cache_folder=cache_folder, progress=progress)
    if work.service.look(job_record.job_id).state in ("waiting", "running"):
        return DeferredJob(job_record, work.service)

    def collect(task: StageTask) -> Outcome:
        raise_unless_succeeded(run, job_record, work.service, spec.budget)
        return work.collect(task, job_record)

    attempt = Attempt(plan, job_record.attempt, cache_folder, progress, before=job_record)
    try:
        result = attempt.run(collect)
    except (BudgetExceeded, StageError):
        # This job will never have a result; other errors may be temporary.
        close(run, job_record)
        raise
    close(run, job_record)
    return result


def _planned(
    stage: Stage, spec: PipelineSpec, run: RunRecord, cache_folder: Path, attempt: int
) -> Plan:
    """Plan a stage; if an input is missing, such as the folder of logs, the attempt has failed."""
    started = datetime.now(UTC)
    try:
        return Plan.of(stage, spec, run, cache_folder)
    except NightbidError as error:
        record_failure(run, stage.name, attempt, error, started)
        raise


def _fresh(run: RunRecord, stage: Stage, attempt: int) -> int:
    """Get an unused attempt number, after recording the usage of earlier attempts."""
    # The usage of a killed attempt is in its usage log and counts too.
    recover_usage_logs(run)
    if run.usage_file(stage.name, attempt).exists():
        return run.next_attempt(stage.name)
    return attempt


def _reuse(plan: Plan, manifest: Manifest, attempt: int) -> StageOutput:
    run, stage = plan.run, plan.stage.name
    began = {number for name, number in run.usage_logs() if name == stage}
    if began - {record.attempt for record in run.records() if record.stage == stage}:
        # An attempt was killed after committing its output; its usage log has its usage.
        recover_usage_logs(run)
    result = StageOutput(manifest, plan.uri, reused=True)
    record_result(plan, result, attempt, datetime.now(UTC), 0.0)
    stop_if_told(plan.stage, result)
    return result
