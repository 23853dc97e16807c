"""A stage of a night as an Airflow task."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from typing import Any, NoReturn

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from nightbid.config.settings import Settings
from nightbid.errors import (
    BudgetExceeded,
    ConfigError,
    DataError,
    GateStopped,
    NightbidError,
    PriceError,
    PromotionRefused,
    StageError,
    WorkspaceError,
)
from nightbid.jobs.follow import poll_seconds
from nightbid.jobs.job import DeferredJob
from nightbid.night.progress import LogProgress
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.night.stages import NIGHT, stage_named
from nightbid.night.task import StageOutput, describe
from nightbid.night.turns import Turns
from nightbid.runner import begin_stage, finish_stage
from nightbid.shortages import remedy
from nightbid.storage.workspace import Workspace

from nightbid_airflow.page_links import PageLink
from nightbid_airflow.remote import JobLink, JobTrigger
from nightbid_airflow.request import NightRequest
from nightbid_airflow.scoring import data_assets, promotions, publish
from nightbid_airflow.turn import TurnTrigger, runs_at_work, waits_for

FINAL = (BudgetExceeded, ConfigError, DataError, GateStopped, PriceError, PromotionRefused)
"""Errors that a retry cannot fix."""
CHATTY = ("great_expectations", "alembic", "apache_beam", "absl")
"""Loggers that write hundreds of INFO lines per task and would hide the log of the stage."""


class StageOperator(BaseOperator):
    """Runs one stage in the task's process, or reuses its output.

    The XCom is the URI of the manifest and the verdict, never data.

    Args:
        stage: Name of the stage in `nightbid.night.stages.NIGHT`.
        pipeline: Name of the pipeline's YAML file.
    """

    ui_color = "#e8f0fe"
    operator_extra_links: Collection[BaseOperatorLink] = (PageLink(), JobLink())

    def __init__(self, *, stage: str, pipeline: str, **arguments: Any) -> None:
        if stage == "promote":
            arguments["outlets"] = [*arguments.get("outlets", ()), promotions(pipeline)]
        if assets := data_assets(pipeline, stage):
            arguments["outlets"] = [*arguments.get("outlets", ()), *assets]
        super().__init__(**arguments)
        self.stage = stage
        self.pipeline = pipeline
        self.job_page = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the stage for the night of the DAG run.

        Raises:
            AirflowFailException: A retry cannot help; the message says what to do.
            NightbidError: A retry may help.
        """
        self._take_turn(context)
        return self._go(context, begin=True)

    def begin(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Run the stage after the trigger has found that no other night of the pipeline is running.

        Raises: see `execute`.
        """
        return self._go(context, begin=True)

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Collect the output of the stage's job after the trigger has seen it end.

        Raises: see `execute`.
        """
        self.log.info("the job ended as %s", event["state"])
        self.job_page = event.get("page", "")
        return self._go(context, begin=False)

    def _go(self, context: Context, *, begin: bool) -> dict[str, Any]:
        settings = Settings()
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        stage = stage_named(self.stage)
        progress = LogProgress(self.stage)
        run: RunRecord | None = None
        try:
            request = NightRequest.of(self.pipeline, context["dag_run"], context["params"])
            attempt = context["ti"].try_number
            # Clearing a task grants it its retries again.
            before = context["ti"].max_tries - (self.retries or 0)
            spec, run = request.open(settings, stage, is_cleared=begin and before > 0)
            result = (
                begin_stage(
                    stage,
                    spec,
                    run,
                    cache_folder=settings.cache,
                    attempt=attempt,
                    progress=progress,
                )
                if begin
                else finish_stage(stage, spec, run, cache_folder=settings.cache, progress=progress)
            )
        except FINAL as error:
            # Without the exception chain, the log ends with the line that says what to do.
            raise AirflowFailException(str(error)) from None
        except NightbidError as error:
            if run is not None and self._has_failed_twice(run, before):
                raise AirflowFailException(str(error)) from None
            raise
        except OSError as error:
            raise _out_of_reach(error, settings) from None
        if isinstance(result, DeferredJob):
            self._leave(result, settings)
        assert isinstance(result, StageOutput)
        if result.reused:
            self.log.info("reused: %s has the same inputs, settings and code", result.uri)
        elif result.manifest.metrics.get("decision") == "promoted":
            try:
                publish(self.pipeline, context)
            except Exception:  # The champion is promoted already, so the task must not fail.
                self.log.exception("the promotion is not published as an asset event")
        for asset in data_assets(self.pipeline, self.stage):
            context["outlet_events"][asset].extra = {
                "uri": result.uri,
                "night": request.date.isoformat(),
                "rows": result.manifest.rows.written,
            }
        self.log.info("%s", result.manifest.summary or "done")
        return describe(result)

    def _has_failed_twice(self, run: RunRecord, before: int) -> bool:
        """Whether the stage itself has failed twice; lost workers do not count.

        Args:
            run: Record of the night.
            before: Number of tries before a user cleared the task.
        """
        failed = [record for record in run.records(self.stage)
                  if record.state == "failed" and record.attempt > before]  # fmt: skip
        return len(failed) > 1

    def _take_turn(self, context: Context) -> None:
        """Defer the task while another night of the pipeline is running.

        Later stages check this too, because a user may clear them after the next night has started.
        """
        run = context["dag_run"]
        if run.triggering_user_name == "dag_test":
            return  # dag.test() runs one night at a time, and has no triggerer.
        settings = Settings()
        request = NightRequest.of(self.pipeline, run, context["params"])
        workspace = Workspace(settings.workspace)
        try:
            other = Turns(workspace, self.pipeline).take(
                run.run_id,
                request.date,
                runs_at_work(run.dag_id, workspace, self.pipeline),
                is_patient=self.stage == NIGHT[0].name and "backfill" in str(run.run_type).lower(),
            )
        except FINAL as error:
            raise AirflowFailException(str(error)) from None
        except OSError as error:
            raise _out_of_reach(error, settings) from None
        if not other:
            return
        if other != run.run_id:
            self.log.info("%s", waits_for(other))
        self.defer(
            trigger=TurnTrigger(
                dag_id=run.dag_id,
                run_id=run.run_id,
                date=request.date.isoformat(),
                pipeline=self.pipeline,
                workspace=settings.workspace,
                every=settings.poll_seconds,
            ),
            method_name="begin",
        )

    def _leave(self, away: DeferredJob, settings: Settings) -> NoReturn:
        """Defer the task while the job is running."""
        job_record = away.job_record
        self.job_page = away.page
        self.log.info("job %s: %s", job_record.job_id, away.page)
        self.defer(
            trigger=JobTrigger(
                workspace=settings.workspace,
                pipeline=job_record.pipeline,
                run_id=job_record.run_id,
                stage=job_record.stage,
                attempt=job_record.attempt,
                every=poll_seconds(),
            ),
            method_name="resume",
        )

    def on_kill(self) -> None:
        """Raise from the signal handler, so that the stage cleans up and records the attempt."""
        raise StageError(
            "the task was stopped from outside",
            where=self.stage,
            hint="clear the task to run it again",
        )


def _out_of_reach(error: OSError, settings: Settings) -> WorkspaceError:
    """Make a one-line error for a failed read or write: the disk is full, read-only or missing."""
    where = error.filename or settings.workspace
    what_helps = remedy(error, (settings.workspace, tempfile.gettempdir()))
    return WorkspaceError(
        f"{error.strerror or error}",
        where=str(where),
        hint=f"{what_helps or 'check the disk and its permissions'}; finished stages are reused",
    )


class ReportOperator(BaseOperator):
    """Writes the report of a night and logs the run in MLflow, whatever the outcome of the night.

    If the tracking store is down, the task still succeeds; the run is queued on disk until the next
    night.

    Args:
        pipeline: Name of the pipeline's YAML file.
    """

    ui_color = "#f3e8fd"
    operator_extra_links = (PageLink(),)

    def __init__(self, *, pipeline: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pipeline = pipeline

    def execute(self, context: Context) -> dict[str, str]:
        """Write the page into the folder of the run; the XCom is its URI."""
        # Imported here because parsing a DAG needs no templates and charts.
        from nightbid.report.write import write_report
        from nightbid.tracking.log import deliver, queue_run

        settings = Settings()
        workspace = Workspace(settings.workspace)
        name = safe_run_id(context["dag_run"].run_id)
        try:
            run = RunRecord.load(workspace, self.pipeline, name)
        except ConfigError:
            raise AirflowSkipException("no stage has started: nothing to report") from None
        page = write_report(run)
        self.log.info("%s", page)
        for message in (queue_run(run, settings), deliver(workspace, settings)):
            if message is not None and str(message):
                self.log.info("%s", message)
        return {"uri": workspace.uri(page)}
