"""An attempt at a stage's output: metered, committed or discarded, and recorded in either case.

The output is written under a temporary name, with its manifest last, and then renamed atomically. A
killed attempt leaves nothing that a later one could mistake for a result.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from upath import UPath

from nightbid.cost.budget import BudgetGuard, limits_of
from nightbid.cost.entries import MACHINE
from nightbid.cost.ledger import record_stage_usage
from nightbid.cost.meter import ProcessMeter
from nightbid.errors import GateStopped, NightbidError, StageError, TrialPruned, printable
from nightbid.jobs.job import DeferredJob
from nightbid.jobs.store import JobRecord, write
from nightbid.machine import fewer_collections
from nightbid.night.attempts import StageRecord
from nightbid.night.key import Plan, output_digest
from nightbid.night.manifest import FileEntry, Manifest, Usage
from nightbid.night.progress import EpochWatcher, Progress, unwatched
from nightbid.night.record import RunRecord
from nightbid.night.sealed import seal
from nightbid.night.source import check_late_imports
from nightbid.night.stage import Stage
from nightbid.night.task import Outcome, StageOutput, StageTask
from nightbid.shortages import remedy
from nightbid.storage.verify import inventory

log = logging.getLogger(__name__)


class Attempt:
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

    def run(self, work: Callable[[StageTask], Outcome | DeferredJob]) -> StageOutput | DeferredJob:
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
            # The output still takes its space.
            what_helps = remedy(error, (workspace.root, self._cache, tempfile.gettempdir()))
            workspace.discard(scratch)
            if isinstance(error, TrialPruned):
                workspace.discard(checkpoints)
            self._record_failure(error, self._spent + meter.usage)
            if isinstance(error, (NightbidError, KeyboardInterrupt, SystemExit)):
                raise
            raise StageError(
                f"{type(error).__name__}: {error}",
                where=f"stage {plan.stage.name} of {run.run_id}",
                hint=f"{what_helps}; nothing was written, a rerun is safe"
                if what_helps
                else StageError.see_traceback,
            ) from error
        result = StageOutput(manifest, plan.uri, reused=False)
        # Record the costs before the attempt: a rerun records those of attempts without a record.
        self._enter_cost(self._spent + meter.usage, "done")
        if outcome.usage != Usage() and outcome.service:
            self._enter_cost(outcome.usage, "done", outcome.service)
        record_result(plan, result, self._number, self._started, self._seconds())
        stop_if_told(plan.stage, result)
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
            try:
                guard.check_before()
            except NightbidError as error:
                self._record_failure(error, Usage())
                raise
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
        record_failure(
            self._plan.run,
            self._plan.stage.name,
            self._number,
            error,
            self._started,
            self._seconds(),
            spent,
        )
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


def stop_if_told(stage: Stage, result: StageOutput) -> None:
    """Raise GateStopped if the stage is a gate with the verdict stop."""
    if result.manifest.verdict == "stop":
        raise GateStopped(
            result.manifest.summary,
            where=stage.name,
            hint=f"full result in {result.uri}",
        )


def record_failure(
    run: RunRecord,
    stage: str,
    attempt: int,
    error: BaseException,
    started: datetime,
    seconds: float = 0.0,
    spent: Usage | None = None,
) -> None:
    """Record that an attempt has failed.

    Recording may fail too (such as on a full disk), but the original failure matters more. The
    usage log keeps the usage for the next attempt.

    Args:
        run: Record of the run.
        stage: Name of the stage.
        attempt: Number of the attempt, from 1.
        error: Error that ended the attempt.
        started: Start of the attempt.
        seconds: Duration in seconds.
        spent: Usage of the attempt; None: nothing was computed.
    """
    record = StageRecord(
        stage=stage,
        attempt=attempt,
        state="failed",
        started=started,
        seconds=seconds,
        usage=spent or Usage(),
        error=printable(str(error)) or type(error).__name__,
    )
    try:
        run.record(record)
    except OSError as second:
        log.warning("failure not recorded: %s", second)


def record_result(
    plan: Plan, result: StageOutput, attempt: int, started: datetime, seconds: float
) -> None:
    """Record that an attempt has made or reused an output.

    Args:
        plan: Plan of the output.
        result: The output.
        attempt: Number of the attempt, from 1.
        started: Start of the attempt.
        seconds: Duration in seconds.
    """
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
