"""Trigger that follows a stage's cloud job without a worker, and the link to the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.triggers.base import BaseTrigger, TriggerEvent
from nightbid.config.pipeline import PipelineSpec
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.storage.workspace import Workspace

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey
    from nightbid.jobs.cost_watch import JobWatch
    from nightbid.jobs.follow import JobFollower


class JobTrigger(BaseTrigger):
    """Polls a job until it ends, copies its messages to the task's log and watches its cost.

    The trigger has no state of its own: a restarted triggerer continues and repeats the messages.
    If a user clears the task or sets its state, the job is canceled; a restart does not cancel it.

    Args:
        workspace: Root URI of the workspace.
        pipeline: Name of the pipeline.
        run_id: Id of the run in the records.
        stage: Name of the stage that the job runs.
        attempt: Number of the attempt at the stage, from 1.
        every: Seconds between polls.
    """

    def __init__(
        self,
        workspace: str,
        pipeline: str,
        run_id: str,
        stage: str,
        attempt: int,
        every: float = 10.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workspace = workspace
        self.pipeline = pipeline
        self.run_id = run_id
        self.stage = stage
        self.attempt = attempt
        self.every = every
        self._following: JobFollower | None = None
        self._page = ""
        self._watch: JobWatch | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Serialize the trigger."""
        return (
            "nightbid_airflow.remote.JobTrigger",
            {
                "workspace": self.workspace,
                "pipeline": self.pipeline,
                "run_id": self.run_id,
                "stage": self.stage,
                "attempt": self.attempt,
                "every": self.every,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the job has ended; fire once, with its state and page."""
        while True:
            state, page, has_ended = await asyncio.to_thread(self._look)
            if has_ended:
                # The page, because the task resumes in a new process and stores its link again.
                yield TriggerEvent({"state": state, "page": page})  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(self.every)

    async def on_kill(self) -> None:
        """Cancel the job, because a user has ended the task."""
        await asyncio.to_thread(self._cancel)

    def _open(self) -> RunRecord:
        return RunRecord.load(Workspace(self.workspace), self.pipeline, self.run_id)

    def _look(self) -> tuple[str, str, bool]:
        # Imported here because the DAG file imports this module, and cloud clients are heavy.
        from nightbid.jobs.cost_watch import JobWatch
        from nightbid.jobs.follow import JobFollower, service_of
        from nightbid.jobs.store import job_record_of

        run = self._open()
        spec = PipelineSpec.model_validate(run.head.spec)
        if self._following is None or self._watch is None:
            job_record = job_record_of(run, self.stage, self.attempt)
            service = service_of(stage_named(self.stage), spec)
            self._following = JobFollower(service, job_record.job_id, self.stage)
            self._page = service.page(job_record.job_id)
            self._watch = JobWatch(run, spec.budget)
        look, _ = self._following.look(self.log.log)
        self._watch.poll()
        return look.state, self._page, look.has_ended

    def _cancel(self) -> None:
        from nightbid.jobs.follow import service_of
        from nightbid.jobs.store import cancel, job_record_of

        run = self._open()
        spec = PipelineSpec.model_validate(run.head.spec)
        service = service_of(stage_named(self.stage), spec)
        cancel(run, job_record_of(run, self.stage, self.attempt), service)


class JobLink(BaseOperatorLink):
    """Link from a task to the page of its job."""

    name = "Job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Get the address of the page; empty for a stage that ran in the task itself."""
        return str(getattr(operator, "job_page", ""))
