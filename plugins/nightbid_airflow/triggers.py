"""Trigger that watches the cost of a night without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from nightbid.clock import heartbeat
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.forecast import run_costs, unusual
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.money import shown
from nightbid.errors import ConfigError, WorkspaceError
from nightbid.jobs.cost_poll import StagePoll, poll_run
from nightbid.night.record import HEARTBEAT, RunRecord, safe_run_id
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace

from nightbid_airflow.metrics import send
from nightbid_airflow.missed_polls import MissedPolls

if TYPE_CHECKING:
    from nightbid.jobs.cost_watch import JobWatch

BEAT_SECONDS = 60
"""Seconds between two heartbeats in the folder of a run."""
ENDED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})


class CostTrigger(BaseTrigger):
    """Records the usage of running stages in the ledger, at every poll, until the night ends.

    The trigger has no state of its own between polls: a restarted triggerer resumes from the usage
    logs and counts nothing twice. If a limit is exceeded, it asks the stage to stop or cancels the
    job, and waits until the final cost is known.

    Args:
        dag_id: Id of the night's DAG.
        run_id: Id of the night's run in Airflow.
        task_id: Id of the sensor's task, whose own end is not awaited.
        pipeline: Name of the pipeline.
        workspace: Root URI of the workspace.
        every: Seconds between polls.
    """

    def __init__(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        pipeline: str,
        workspace: str,
        every: float = 5.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id = dag_id
        self.run_id = run_id
        self.task_id = task_id
        self.pipeline = pipeline
        self.workspace = workspace
        self.every = every
        self._said: set[str] = set()
        self._jobs: JobWatch | None = None
        self._beaten: float | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Serialize the trigger."""
        return (
            "nightbid_airflow.triggers.CostTrigger",
            {
                "dag_id": self.dag_id,
                "run_id": self.run_id,
                "task_id": self.task_id,
                "pipeline": self.pipeline,
                "workspace": self.workspace,
                "every": self.every,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until all other tasks have ended and the costs of all jobs are final; fire once."""
        over, missed = "", MissedPolls()
        while True:
            # Get the task states first, so that a poll after the end sees the final usage.
            ended = await self._others_have_ended()
            try:
                reason, jobs_open = await asyncio.to_thread(self._poll)
                missed.forget()
            except WorkspaceError as error:
                missed.add(error)
                self.log.warning("%s", error)
                reason, jobs_open = "", True
            over = over or reason
            if ended and not jobs_open:
                event = await asyncio.to_thread(self._conclude)
                yield TriggerEvent({"over": over, **event})  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(self.every)

    async def _others_have_ended(self) -> bool:
        states = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=self.dag_id, run_ids=[self.run_id]
        )
        others = {
            task: state
            for task, state in states.get(self.run_id, {}).items()
            if task != self.task_id
        }
        return bool(others) and all(state in ENDED for state in others.values())

    def _poll(self) -> tuple[str, bool]:
        """Poll the usage of the running stages and jobs.

        Returns:
            The limit that is exceeded, empty if none; and whether the cost of a job is not final.
        """
        run = self._record()
        if run is None or not run.head.spec:
            return "", False  # The run has not started, or was refused.
        self._beat(run)
        budget = PipelineSpec.model_validate(run.head.spec).budget
        if self._jobs is None:
            # Imported here because the DAG file imports this module, and cloud clients are heavy.
            from nightbid.jobs.cost_watch import JobWatch

            self._jobs = JobWatch(run, budget)
        over = ""
        for stage, seen in poll_run(run, budget).items():
            self._report(stage, seen)
            if seen.judgment == "over":
                over = seen.reason
        jobs = self._jobs.poll()
        for name, job in jobs.items():
            self.log.info(
                "%s: %s, %s USD so far, %s expected",
                name,
                job.state,
                shown(job.spent_usd),
                shown(job.projected_usd),
            )
            stage = name.split()[0]
            send("spent_usd", job.spent_usd, pipeline=self.pipeline, stage=stage)
            send("projected_usd", job.projected_usd, pipeline=self.pipeline, stage=stage)
            if job.trouble:
                self.log.warning("%s: %s", name, job.trouble)
            if job.judgment == "over":
                over = job.reason
            elif job.judgment == "warn":
                self._warn_once(name, job.reason)
        send("run_usd", self._spent(run), pipeline=self.pipeline)
        return over, bool(jobs)

    def _beat(self, run: RunRecord) -> None:
        """Write a heartbeat for `nightbid watch`, which shows that the triggerer is alive."""
        moment = time.monotonic()
        if self._beaten is None or moment - self._beaten >= BEAT_SECONDS:
            self._beaten = moment
            write_atomically(run.folder / HEARTBEAT, heartbeat())

    def _report(self, stage: str, seen: StagePoll) -> None:
        self.log.info(
            "%s: %s USD so far, %s expected, %.0f%% done",
            stage,
            shown(seen.spent_usd),
            shown(seen.projected_usd),
            100 * seen.done,
        )
        send("spent_usd", seen.spent_usd, pipeline=self.pipeline, stage=stage)
        send("projected_usd", seen.projected_usd, pipeline=self.pipeline, stage=stage)
        if seen.judgment == "warn":
            self._warn_once(stage, seen.reason)

    def _warn_once(self, subject: str, reason: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            self.log.warning("%s", reason)

    def _conclude(self) -> dict[str, str]:
        """Report the cost of the night, and whether it is unusually high for its rows."""
        run = self._record()
        if run is None:
            return {"spent_usd": "0", "unusual": ""}
        costs = run_costs(run.workspace, self.pipeline, lenient=True)
        night_cost = next((cost for cost in costs if cost.run_id == run.run_id), None)
        alert = ""
        if night_cost is not None and night_cost.per_million_rows is not None:
            send("per_million_rows_usd", night_cost.per_million_rows, pipeline=self.pipeline)
            earlier = [cost for cost in costs if cost.run_id != run.run_id]
            alert = unusual([*earlier, night_cost]) or "" if night_cost.is_whole else ""
            send("unusual", float(bool(alert)), pipeline=self.pipeline)
        spent = self._spent(run)
        send("run_usd", spent, pipeline=self.pipeline)
        return {"spent_usd": str(spent), "unusual": alert}

    def _spent(self, run: RunRecord) -> Decimal:
        entries = Ledger(run.workspace, lenient=True).entries(
            pipeline=self.pipeline, run_id=run.run_id
        )
        return total(entries).amount

    def _record(self) -> RunRecord | None:
        try:
            return RunRecord.load(
                Workspace(self.workspace), self.pipeline, safe_run_id(self.run_id)
            )
        except ConfigError:
            # The first stage has not started.
            return None
