"""One night of a pipeline at a time, also where Airflow itself would start ten (a backfill)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from nightbid.errors import WorkspaceError
from nightbid.night.turns import AtWork, Turns, watched_runs
from nightbid.partitions import partition_of
from nightbid.storage.workspace import Workspace

PATIENCE_POLLS = 60
"""For as many polls in a row the workspace may be out of reach."""


def runs_at_work(dag_id: str, workspace: Workspace, pipeline: str) -> AtWork:
    """Ask Airflow whether one of some runs of a DAG is running; a queued one is not.

    A run that this Airflow does not know may be another one's, in the same workspace: it is at work
    while that one's triggerer leaves signs of life.

    Args:
        dag_id: DAG of the pipeline's nights.
        workspace: Holds the records.
        pipeline: Name of the pipeline.
    """
    is_watched = watched_runs(workspace, pipeline)

    def count(run_ids: Sequence[str], states: list[str] | None) -> int:
        return RuntimeTaskInstance.get_dr_count(dag_id=dag_id, run_ids=list(run_ids), states=states)

    def at_work(run_ids: Sequence[str]) -> bool:
        if count(run_ids, ["running"]) > 0:
            return True
        if count(run_ids, None) == len(run_ids):
            return False
        strangers = [each for each in run_ids if is_watched([each])]
        return any(count([each], None) == 0 for each in strangers)

    return at_work


class TurnTrigger(BaseTrigger):
    """Waits until no other night of the pipeline is at work, and takes the next turn.

    It keeps nothing between polls: a triggerer that is restarted goes on where the turns are.

    Args:
        dag_id: DAG of the night.
        run_id: The night, as Airflow knows it.
        date: Its newest day of logs, YYYY-MM-DD.
        pipeline: Name of the pipeline.
        workspace: Root URI.
        every: Seconds between polls.
    """

    def __init__(
        self,
        dag_id: str,
        run_id: str,
        date: str,
        pipeline: str,
        workspace: str,
        every: float = 5.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id = dag_id
        self.run_id = run_id
        self.date = date
        self.pipeline = pipeline
        self.workspace = workspace
        self.every = every

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Serialize the trigger."""
        return (
            "nightbid_airflow.turn.TurnTrigger",
            {
                "dag_id": self.dag_id,
                "run_id": self.run_id,
                "date": self.date,
                "pipeline": self.pipeline,
                "workspace": self.workspace,
                "every": self.every,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the turn is this run's; fire once."""
        missed, said = 0, ""
        while True:
            # First, so that runs which were started together have all been noted.
            await asyncio.sleep(self.every)
            try:
                other = await sync_to_async(self._take)()
                missed = 0
            except WorkspaceError as error:
                missed += 1
                if missed > PATIENCE_POLLS:
                    raise
                self.log.warning("%s", error)
                continue
            if not other:
                yield TriggerEvent({"run_id": self.run_id})  # type: ignore[no-untyped-call]
                return
            if other != said:
                said = other
                self.log.info("%s", waits_for(other))

    def _take(self) -> str:
        workspace = Workspace(self.workspace)
        at_work = runs_at_work(self.dag_id, workspace, self.pipeline)
        date = partition_of(self.date)
        return Turns(workspace, self.pipeline).take(self.run_id, date, at_work)


def waits_for(other: str) -> str:
    """Say in one line what a night waits for, and how not to."""
    return (
        f"one night of a pipeline at a time: waiting until run {other} has ended"
        " → mark that run as failed to go on without it"
    )
