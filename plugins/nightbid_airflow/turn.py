"""Runs one night of a pipeline at a time, even if Airflow starts several (a backfill)."""

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

from nightbid_airflow.missed_polls import MissedPolls

GATHER_SECONDS = 5.0
"""Seconds before the first poll, in which all runs that were started together are registered."""


def runs_at_work(dag_id: str, workspace: Workspace, pipeline: str) -> AtWork:
    """Make a function that asks Airflow whether any of some runs is running (not just queued).

    A run that this Airflow does not know may belong to another Airflow with the same workspace. It
    counts as running while its triggerer writes heartbeats.

    Args:
        dag_id: Id of the DAG of the pipeline's nights.
        workspace: Workspace with the records.
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
        strangers = [run_id for run_id in run_ids if is_watched([run_id])]
        return any(count([run_id], None) == 0 for run_id in strangers)

    return at_work


class TurnTrigger(BaseTrigger):
    """Waits until no other night of the pipeline is running, and takes the next turn.

    The trigger has no state of its own: a restarted triggerer resumes from the recorded turns.

    Args:
        dag_id: Id of the night's DAG.
        run_id: Id of the night's run in Airflow.
        date: Newest day of logs of the night, YYYY-MM-DD.
        pipeline: Name of the pipeline.
        workspace: Root URI of the workspace.
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
        """Poll until it is this run's turn; fire once."""
        missed, reported, pause = MissedPolls(), "", GATHER_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = self.every
            try:
                other = await sync_to_async(self._take)()
                missed.forget()
            except WorkspaceError as error:
                missed.add(error)
                self.log.warning("%s", error)
                continue
            if not other:
                yield TriggerEvent({"run_id": self.run_id})  # type: ignore[no-untyped-call]
                return
            if other != reported:
                reported = other
                self.log.info("%s", waits_for(other))

    def _take(self) -> str:
        workspace = Workspace(self.workspace)
        at_work = runs_at_work(self.dag_id, workspace, self.pipeline)
        date = partition_of(self.date)
        return Turns(workspace, self.pipeline).take(self.run_id, date, at_work)


def waits_for(other: str) -> str:
    """Write a line that says which night is waited for, and how to end the wait."""
    return (
        f"one night of a pipeline at a time: waiting until run {other} has ended"
        " → to continue now, mark that run as failed"
    )
