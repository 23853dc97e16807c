"""Records of the jobs of a run's stages, written before the jobs are submitted.

A record contains the name of its job. If a process dies after writing the record and before storing
the job's id, the next process finds the job by this name, or submits it with the same request id,
so that there is never a second job.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.config.costs import Budget
from nightbid.cost.budget import BudgetGuard, limits_of
from nightbid.cost.ledger import Ledger, total
from nightbid.errors import BudgetExceeded, ConfigError, ServiceError, StageError
from nightbid.jobs.job import JobClient, RemoteStage
from nightbid.night.head import GONE
from nightbid.night.manifest import Usage
from nightbid.night.record import RunRecord
from nightbid.night.sealed import unseal
from nightbid.night.task import StageTask
from nightbid.storage.files import read_all, write_atomically

if TYPE_CHECKING:
    from nightbid.night.key import Plan

log = logging.getLogger(__name__)


class JobRecord(BaseModel):
    """A job that an attempt at a stage has requested."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    run_id: str
    stage: str
    attempt: int
    kind: str
    """Kind of the service, its name in the price book."""
    key: str
    """Key of the output."""
    uri: str
    """URI of the output."""
    code_digest: str
    """Digest of the source code that the output depends on; the job must have the same code."""
    name: str
    """Name of the job, the same for all processes that resume the record."""
    request_id: str
    """Id by which the service recognizes repeated requests."""
    job_id: str = ""
    """Id of the job; empty until it is known."""
    started: datetime
    usage: Usage = Usage()
    """Usage of this process until the job was submitted."""
    state: Literal["open", "closed"] = "open"

    @classmethod
    def new(cls, plan: Plan, attempt: int, kind: str) -> JobRecord:
        """Make the record of a job that computes the output of a plan."""
        stage, run = plan.stage.name, plan.run
        # Runs of different nights may need the same output at the same time, so the name has both.
        words = f"nb-{plan.spec.pipeline}-{stage}-{plan.key[:10]}-{_short(run.run_id)}-{attempt}"
        name = re.sub(r"[^a-z0-9-]+", "-", words.lower())
        return cls(
            pipeline=plan.spec.pipeline,
            run_id=run.run_id,
            stage=stage,
            attempt=attempt,
            kind=kind,
            key=plan.key,
            uri=plan.uri,
            code_digest=plan.code_digest,
            name=name,
            request_id=name,
            started=datetime.now(UTC),
        )


def _short(run_id: str) -> str:
    import hashlib

    return hashlib.sha256(run_id.encode()).hexdigest()[:6]


def _folder(run: RunRecord) -> UPath:
    return run.folder / "orders"


def write(run: RunRecord, job_record: JobRecord) -> None:
    """Write or update a job record."""
    path = _folder(run) / f"{job_record.stage}.{job_record.attempt}.json"
    write_atomically(path, job_record.model_dump_json(indent=1))


def close(run: RunRecord, job_record: JobRecord) -> None:
    """Mark a job record as closed, because its job is no longer needed."""
    write(run, job_record.model_copy(update={"state": "closed"}))


def cancel(run: RunRecord, job_record: JobRecord, service: JobClient) -> None:
    """Cancel a job at a user's request. The next attempt submits a new one."""
    if job_record.job_id:
        log.warning("%s: canceling job %s", job_record.stage, job_record.job_id)
        service.cancel(job_record.job_id)
    close(run, job_record)


def job_records(run: RunRecord, stage: str = "") -> list[JobRecord]:
    """List the job records of a run, or of one of its stages, oldest first."""
    folder = _folder(run)
    records = [
        unseal(JobRecord, text, folder / name, GONE)
        for name, text in read_all(folder, ".json").items()
    ]
    return sorted((record for record in records if not stage or record.stage == stage),
                  key=lambda record: (record.started, record.attempt))  # fmt: skip


def job_record_of(run: RunRecord, stage: str, attempt: int) -> JobRecord:
    """Get the job record of an attempt at a stage."""
    path = _folder(run) / f"{stage}.{attempt}.json"
    return unseal(JobRecord, path.read_bytes(), path, GONE)


def open_job(run: RunRecord, stage: str, key: str) -> JobRecord | None:
    """Get the open job record of an output; None if there is none."""
    records = [
        record for record in job_records(run, stage) if record.state == "open" and record.key == key
    ]
    # A later attempt has a higher number, whatever the clock said.
    return max(records, key=lambda record: record.attempt, default=None)


def submit_once(
    run: RunRecord, job_record: JobRecord, work: RemoteStage, task: StageTask
) -> JobRecord:
    """Submit a job once: write its record before the submission, and its id afterwards.

    Raises:
        ServiceError: The service refused the job or did not answer.
    """
    write(run, job_record)
    service = work.service
    try:
        job_id = service.find(job_record.name) or work.submit(task, job_record)
    except BaseException as error:
        # The request may have arrived, with only its response lost.
        job_id = _submitted_after_all(service, job_record, error)
        if not job_id:
            close(run, job_record)
            raise
        if not isinstance(error, ServiceError):
            # This process is being stopped, so nothing would wait for the job.
            stopped = job_record.model_copy(update={"job_id": job_id})
            _note(run, stopped, service)
            cancel(run, stopped, service)
            raise
    placed = job_record.model_copy(update={"job_id": job_id})
    _note(run, placed, service)
    write(run, placed)
    log.info("%s: job %s (%s): %s", job_record.stage, job_record.name, job_id, service.page(job_id))
    return placed


def _submitted_after_all(service: JobClient, job_record: JobRecord, error: BaseException) -> str:
    """Look up the job by its name; if that fails too, the record stays open."""
    try:
        return service.find(job_record.name)
    except ServiceError:
        raise error from None


def _note(run: RunRecord, job_record: JobRecord, service: JobClient) -> None:
    # Cost watches in other processes find the job by its note.
    from nightbid.jobs.cost_watch import note_job

    note_job(run, service.note(job_record))


def cancel_other_jobs(run: RunRecord, stage: str, key: str, service: JobClient) -> None:
    """Cancel the jobs of a stage whose outputs are no longer needed.

    Args:
        run: Run of the stage.
        stage: Name of the stage, whose inputs or code have changed.
        key: Key of the output that is still needed; empty: none.
        service: Service that runs the jobs.
    """
    for record in job_records(run, stage):
        if record.state == "open" and record.key != key:
            log.info("%s: the output of job %s is no longer needed", stage, record.name)
            job_id = record.job_id or service.find(record.name)
            cancel(run, record.model_copy(update={"job_id": job_id}), service)


def raise_unless_succeeded(
    run: RunRecord, job_record: JobRecord, service: JobClient, budget: Budget
) -> None:
    """Raise an error if an ended job has no result.

    Raises:
        BudgetExceeded: The job was canceled, and a limit is exceeded.
        StageError: The job failed, was canceled, or is gone.
        ServiceError: The service does not answer.
    """
    look = service.look(job_record.job_id)
    if look.state == "done":
        return
    where = f"stage {job_record.stage} of {job_record.run_id}"
    page = service.page(job_record.job_id)
    if look.state == "unknown":
        raise ServiceError(
            f"the state of job {job_record.job_id} cannot be read: {look.said}",
            where=where,
            hint="a rerun polls again and submits nothing",
        )
    if look.state == "cancelled" and (reason := _over_budget(run, job_record, budget)):
        raise BudgetExceeded(
            reason,
            where="budget",
            hint="raise the limit in the pipeline's budget block, or make the stage cheaper",
        )
    errors = _errors(service, job_record.job_id)
    # The service gives its reason after the state; the last error is the reason of the workers.
    reasons = (
        look.said.partition(": ")[2],
        *(" ".join(error.split())[-300:] for error in errors[-1:]),
    )
    cause = "; ".join(filter(None, reasons)) or look.said
    raise StageError(
        f"job {job_record.job_id} ended as {look.state}: {cause}",
        where=where,
        hint=f"see {page}; a rerun submits a new job",
    )


def _errors(service: JobClient, job_id: str) -> list[str]:
    """Get the errors of a job; empty if the service does not answer or forbids reading them."""
    try:
        return [
            message.text for message in service.messages(job_id, None) if message.level == "error"
        ]
    except (ConfigError, ServiceError):
        return []


def _over_budget(run: RunRecord, job_record: JobRecord, budget: Budget) -> str | None:
    limits = limits_of(
        budget,
        run.workspace,
        pipeline=job_record.pipeline,
        run_id=job_record.run_id,
        stage=job_record.stage,
        attempt=job_record.attempt,
        at=job_record.started,
    )
    entries = Ledger(run.workspace, lenient=True).entries(
        pipeline=job_record.pipeline, run_id=job_record.run_id, stage=job_record.stage
    )
    spent = total(entry for entry in entries if entry.attempt == job_record.attempt)
    return BudgetGuard(limits, job_record.started).passed(spent.amount)
