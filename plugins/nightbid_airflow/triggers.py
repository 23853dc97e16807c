"""What runs in the triggerer: watching the cost of a night without holding a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.money import shown
from nightbid.cost.poll import StagePoll, poll_run
from nightbid.errors import ConfigError
from nightbid.runs import RunRecord, safe_run_id
from nightbid.workspace import Workspace

ENDED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})


class CostTrigger(BaseTrigger):
    """Enters what running stages have used in the ledger, again and again, until the night ends.

    It keeps nothing that matters between polls: a triggerer that is restarted goes on where the
    trails are, and counts nothing twice. Over a limit it asks the stage to stop, and fires.

    Args:
        dag_id: of the night.
        run_id: of the night, as Airflow knows it.
        task_id: of the sensor, whose own end is not waited for.
        pipeline: name of the pipeline.
        workspace: root URI.
        every: seconds between polls.
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

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Say how to make it again."""
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
        """Poll until a limit is passed or every other task has ended; fire once."""
        while True:
            # The states first: what is polled after the end is all there will be.
            ended = await self._others_have_ended()
            over = await asyncio.to_thread(self._poll)
            if over or ended:
                spent = await asyncio.to_thread(self._spent)
                yield TriggerEvent({"over": over, "spent_usd": spent})  # type: ignore[no-untyped-call]
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

    def _poll(self) -> str:
        """Look at the stages under way; returns why the night must end, or nothing."""
        run = self._record()
        if run is None:
            return ""
        budget = PipelineSpec.model_validate(run.head.spec).budget
        over = ""
        for stage, seen in poll_run(run, budget).items():
            self._report(stage, seen)
            if seen.judgement == "over":
                over = seen.reason
        return over

    def _report(self, stage: str, seen: StagePoll) -> None:
        self.log.info(
            "%s: %s USD so far, %s expected, %.0f%% done",
            stage,
            shown(seen.spent_usd),
            shown(seen.projected_usd),
            100 * seen.done,
        )
        if seen.judgement == "warn" and stage not in self._said:
            self._said.add(stage)
            self.log.warning("%s", seen.reason)

    def _spent(self) -> str:
        run = self._record()
        if run is None:
            return "0"
        entries = Ledger(run.workspace).entries(pipeline=self.pipeline, run_id=run.run_id)
        return str(total(entries).amount)

    def _record(self) -> RunRecord | None:
        try:
            return RunRecord.load(
                Workspace(self.workspace), self.pipeline, safe_run_id(self.run_id)
            )
        except ConfigError:
            # The first stage has not begun.
            return None
