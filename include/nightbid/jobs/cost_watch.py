"""Watches the cloud jobs of a run from their submission until their cost is final.

Each job has a small file in the run's folder, so that a restarted watcher finds it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nightbid.config.costs import Budget
from nightbid.cost.budget import BudgetGuard, limits_of, past_costs
from nightbid.jobs.meter import JobMeter, JobPoll, MeteredJob
from nightbid.night.head import GONE
from nightbid.night.record import RunRecord
from nightbid.night.sealed import unseal
from nightbid.storage.files import read_all, write_atomically
from nightbid.storage.workspace import Workspace

MeteredService = Literal["dataflow", "vertex_training"]


class JobNote(BaseModel):
    """A cloud job of an attempt at a stage, for the cost watch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    attempt: int
    project: str
    location: str
    job_id: str
    """Id of the job at the service; for a custom job, the last part of its resource name."""
    started: datetime
    service: MeteredService = "dataflow"
    option: str = ""
    """Purchase option with a multiplier in the price book: `flexrs`, `spot`; empty: none."""
    endpoint: str | None = None
    """Address of an emulator: `http://host:port` for REST, `host:port` for gRPC; None: Google."""
    settled: bool = False
    """Whether its final metrics are in the ledger, or waiting for them timed out."""


def note_job(run: RunRecord, note: JobNote) -> None:
    """Write or update the note of a job.

    Writing it again changes nothing. A job that a later attempt resumes stays assigned to the
    attempt that submitted it, so that its cost counts once.
    """
    path = run.folder / "jobs" / f"{note.stage}.{note.attempt}.{note.job_id}.json"
    if not path.exists() and any(
        (noted.stage, noted.job_id) == (note.stage, note.job_id) for noted in noted_jobs(run)
    ):
        return
    write_atomically(path, note.model_dump_json(indent=1))


def noted_jobs(run: RunRecord) -> list[JobNote]:
    """List the jobs of a run, in the order of their start."""
    folder = run.folder / "jobs"
    notes = [
        unseal(JobNote, text, folder / name, GONE)
        for name, text in read_all(folder, ".json").items()
    ]
    return sorted(notes, key=lambda note: (note.started, note.job_id))


class JobWatch:
    """Polls the jobs of a run, and records the final cost of each after its end.

    Its state between polls only limits the waiting: after a restart it counts nothing twice.

    Args:
        run: Run whose jobs to poll.
        budget: Budget of the pipeline.
        quiet_polls: Number of consecutive polls without new usage, after the end of a job, from
            which its metrics count as final.
        patience_polls: Maximum number of polls to wait for the final metrics of an ended job.
    """

    def __init__(
        self,
        run: RunRecord,
        budget: Budget,
        *,
        quiet_polls: int = 3,
        patience_polls: int = 120,
    ) -> None:
        self._run = run
        self._budget = budget
        self._quiet_polls = quiet_polls
        self._patience_polls = patience_polls
        self._meters: dict[str, JobMeter] = {}
        self._quiet: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def poll(self) -> dict[str, JobPoll]:
        """Poll all jobs whose cost is not final, and cancel those over a limit.

        Returns:
            `<stage> <job id>` → result of the poll; empty once the costs of all jobs are final.
        """
        polls: dict[str, JobPoll] = {}
        for note in noted_jobs(self._run):
            if note.settled:
                continue
            meter = self._meter(note)
            poll = meter.poll()
            polls[f"{note.stage} {note.job_id}"] = poll
            if not poll.ended:
                continue
            job = note.job_id
            self._ended[job] = self._ended.get(job, 0) + 1
            self._quiet[job] = 0 if poll.grew or poll.trouble else self._quiet.get(job, 0) + 1
            quiet = self._quiet[job] >= self._quiet_polls and meter.has_expected()
            if poll.final or quiet or self._ended[job] >= self._patience_polls:
                note_job(self._run, note.model_copy(update={"settled": True}))
        return polls

    def _meter(self, note: JobNote) -> JobMeter:
        run = self._run
        guard = self._breaker(note)
        meter = self._meters.get(note.job_id)
        if meter is None:
            job = MeteredJob(
                project=note.project,
                location=note.location,
                job_id=note.job_id,
                pipeline=run.head.pipeline,
                run_id=run.run_id,
                stage=note.stage,
                attempt=note.attempt,
                option=note.option,
            )
            meter = _meter_of(note, job, run.workspace, guard)
            meter.past = past_costs(run, note.stage)
            self._meters[note.job_id] = meter
        # The cost of others under the same limits grows while this job runs.
        meter.guard = guard
        return meter

    def _breaker(self, note: JobNote) -> BudgetGuard:
        run = self._run
        limits = limits_of(
            self._budget,
            run.workspace,
            pipeline=run.head.pipeline,
            run_id=run.run_id,
            stage=note.stage,
            attempt=note.attempt,
            at=note.started,
        )
        return BudgetGuard(limits, note.started, warn_at=self._budget.warn_at)


def _meter_of(note: JobNote, job: MeteredJob, workspace: Workspace, guard: BudgetGuard) -> JobMeter:
    # Imported here because the client of each service is heavy, and a run uses at most one.
    if note.service == "vertex_training":
        from nightbid.jobs import vertex_meter

        client = vertex_meter.connect(note.location, note.endpoint)
        return vertex_meter.TrainingMeter(job, workspace, client, guard)
    from nightbid.jobs import dataflow_meter

    clients = dataflow_meter.Clients.connect(note.endpoint)
    return dataflow_meter.DataflowMeter(job, workspace, clients, guard)
