"""The cloud jobs that work for a run: noted when submitted, watched until their cost is final.

One small file per job in the run's folder, so that a watcher that is started anew finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from nightbid.config.costs import Budget
from nightbid.cost.dataflow import Clients, Job, JobMeter, Poll
from nightbid.cost.watch import Breaker, limits_of
from nightbid.runs import RunRecord
from nightbid.workspace import read_all, write_atomically

Connect = Callable[[str | None], Clients]


class JobNote(BaseModel):
    """One Dataflow job of one attempt at a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    attempt: int
    project: str
    location: str
    job_id: str
    started: datetime
    endpoint: str | None = None
    """`host:port` of an emulator's gRPC face; None for Google."""
    settled: bool = False
    """Whether its final metrics are in the ledger (or were waited for in vain)."""


def note_job(run: RunRecord, note: JobNote) -> None:
    """Write a job down, or what has become of it. Writing it again changes nothing."""
    path = run.folder / "jobs" / f"{note.stage}.{note.attempt}.{note.job_id}.json"
    write_atomically(path, note.model_dump_json(indent=1))


def noted_jobs(run: RunRecord) -> list[JobNote]:
    """Every job of a run, in the order they were started."""
    texts = read_all(run.folder / "jobs", ".json").values()
    found = [JobNote.model_validate_json(text) for text in texts]
    return sorted(found, key=lambda note: (note.started, note.job_id))


class JobWatch:
    """Polls the jobs of a run, and settles each once it has ended.

    What it keeps between polls is only for patience: started anew it counts nothing twice.

    Args:
        run: whose jobs.
        budget: of the pipeline.
        quiet_polls: as many answers in a row without news after the end of a job mean that its
            final metrics are in.
        patience_polls: after as many polls of a job that ended its metrics are waited for no more.
        connect: makes the clients of the service.
    """

    def __init__(
        self,
        run: RunRecord,
        budget: Budget,
        *,
        quiet_polls: int = 3,
        patience_polls: int = 120,
        connect: Connect = Clients.connect,
    ) -> None:
        self._run = run
        self._budget = budget
        self._quiet_polls = quiet_polls
        self._patience_polls = patience_polls
        self._connect = connect
        self._clients: dict[str | None, Clients] = {}
        self._meters: dict[str, JobMeter] = {}
        self._quiet: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def poll(self) -> dict[str, Poll]:
        """Look once at every job that is not settled; over a limit it is cancelled.

        Returns:
            `<stage> <job id>` → what was seen; empty when every job is settled.
        """
        found: dict[str, Poll] = {}
        for note in noted_jobs(self._run):
            if note.settled:
                continue
            meter = self._meter(note)
            seen = meter.poll()
            found[f"{note.stage} {note.job_id}"] = seen
            if not seen.ended:
                continue
            job = note.job_id
            self._ended[job] = self._ended.get(job, 0) + 1
            self._quiet[job] = 0 if seen.grew or seen.trouble else self._quiet.get(job, 0) + 1
            complete = self._quiet[job] >= self._quiet_polls and meter.has_expected()
            if complete or self._ended[job] >= self._patience_polls:
                note_job(self._run, note.model_copy(update={"settled": True}))
        return found

    def _meter(self, note: JobNote) -> JobMeter:
        run = self._run
        if note.job_id not in self._meters:
            if note.endpoint not in self._clients:
                self._clients[note.endpoint] = self._connect(note.endpoint)
            self._meters[note.job_id] = JobMeter(
                Job(
                    project=note.project,
                    location=note.location,
                    job_id=note.job_id,
                    pipeline=run.head.pipeline,
                    run_id=run.run_id,
                    stage=note.stage,
                    attempt=note.attempt,
                ),
                run.workspace,
                self._clients[note.endpoint],
                self._breaker(note),
            )
        meter = self._meters[note.job_id]
        # What others have spent under the same limits grows while this job runs.
        meter.breaker = self._breaker(note)
        return meter

    def _breaker(self, note: JobNote) -> Breaker:
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
        return Breaker(limits, note.started, warn_at=self._budget.warn_at)
