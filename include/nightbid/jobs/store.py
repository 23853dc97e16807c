"""The jobs that a run's stages have ordered, written down before they are submitted.

An order names its job beforehand. A process that dies between the order and the job's id leaves
an order by whose name the next one finds the job, or submits it with the same request id: never
a second one.
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
from nightbid.storage.workspace import read_all, write_atomically

if TYPE_CHECKING:
    from nightbid.night.key import Plan

log = logging.getLogger(__name__)


class JobRecord(BaseModel):
    """One job that an attempt at a stage has asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    run_id: str
    stage: str
    attempt: int
    kind: str
    """Of the service."""
    key: str
    """Of the output."""
    uri: str
    """Address of the output."""
    code_digest: str
    """Of the source that the output depends on: the job's must be the same."""
    name: str
    """Of the job: the same for every process that takes this order up."""
    request_id: str
    """By which the service knows that two requests are one."""
    job_id: str = ""
    """Once it is known."""
    started: datetime
    usage: Usage = Usage()
    """Of this side, until the job was submitted."""
    state: Literal["open", "closed"] = "open"

    @classmethod
    def new(cls, plan: Plan, attempt: int, kind: str) -> JobRecord:
        """Order the output of a plan."""
        stage, run = plan.stage.name, plan.run
        # Runs of different nights may want the same output at the same time: the name has both.
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
    """Write an order down, or what has become of it."""
    path = _folder(run) / f"{job_record.stage}.{job_record.attempt}.json"
    write_atomically(path, job_record.model_dump_json(indent=1))


def close(run: RunRecord, job_record: JobRecord) -> None:
    """Note that nothing more is wanted of an order's job."""
    write(run, job_record.model_copy(update={"state": "closed"}))


def cancel(run: RunRecord, job_record: JobRecord, service: JobClient) -> None:
    """Cancel a job at a user's request. The next attempt submits a new one."""
    if job_record.job_id:
        log.warning("%s: canceling job %s", job_record.stage, job_record.job_id)
        service.cancel(job_record.job_id)
    close(run, job_record)


def job_records(run: RunRecord, stage: str = "") -> list[JobRecord]:
    """Every order of a run, or of one of its stages, oldest first."""
    folder = _folder(run)
    found = [
        unseal(JobRecord, text, folder / name, GONE)
        for name, text in read_all(folder, ".json").items()
    ]
    return sorted((each for each in found if not stage or each.stage == stage),
                  key=lambda each: (each.started, each.attempt))  # fmt: skip


def job_record_of(run: RunRecord, stage: str, attempt: int) -> JobRecord:
    """The order that an attempt at a stage placed."""
    path = _folder(run) / f"{stage}.{attempt}.json"
    return unseal(JobRecord, path.read_bytes(), path, GONE)


def open_job(run: RunRecord, stage: str, key: str) -> JobRecord | None:
    """The order for an output that is not settled yet."""
    found = [each for each in job_records(run, stage) if each.state == "open" and each.key == key]
    return found[-1] if found else None


def submit_once(
    run: RunRecord, job_record: JobRecord, work: RemoteStage, task: StageTask
) -> JobRecord:
    """Submit the job of an order, once: written down before, and with the job's id after.

    Raises:
        ServiceError: the service refused it or did not answer.
    """
    write(run, job_record)
    service = work.service
    try:
        job_id = service.find(job_record.name) or work.submit(task, job_record)
    except BaseException as error:
        # The request may have arrived and only its answer be lost.
        job_id = _submitted_after_all(service, job_record, error)
        if not job_id:
            close(run, job_record)
            raise
        if not isinstance(error, ServiceError):
            # We are being stopped: nobody would wait for it.
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
    """Ask for the job by name; if even that cannot be answered the order stays open."""
    try:
        return service.find(job_record.name)
    except ServiceError:
        raise error from None


def _note(run: RunRecord, job_record: JobRecord, service: JobClient) -> None:
    # The watchers of costs look for notes, in whatever process they are.
    from nightbid.jobs.cost_watch import note_job

    note_job(run, service.note(job_record))


def cancel_other_jobs(run: RunRecord, stage: str, key: str, service: JobClient) -> None:
    """End the jobs of a stage that make what nobody wants any more.

    Args:
        run: whose.
        stage: whose inputs or code have changed.
        key: of the output that is still wanted; empty: none is.
        service: that runs them.
    """
    for each in job_records(run, stage):
        if each.state == "open" and each.key != key:
            log.info("%s: what job %s would make is not wanted any more", stage, each.name)
            job_id = each.job_id or service.find(each.name)
            cancel(run, each.model_copy(update={"job_id": job_id}), service)


def raise_unless_succeeded(
    run: RunRecord, job_record: JobRecord, service: JobClient, budget: Budget
) -> None:
    """Say why a job that ended has no result.

    Raises:
        BudgetExceeded: it was canceled, and a limit is passed.
        StageError: it failed, was canceled, or is gone.
        ServiceError: the service does not answer.
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
            hint="a rerun asks again and submits nothing",
        )
    if look.state == "cancelled" and (reason := _over_budget(run, job_record, budget)):
        raise BudgetExceeded(
            reason,
            where="budget",
            hint="raise the limit in the pipeline's budget block, or make the stage cheaper",
        )
    errors = _errors(service, job_record.job_id)
    # The service's reason stands behind its word for the state; the workers' is the last error.
    reasons = (
        look.said.partition(": ")[2],
        *(" ".join(each.split())[-300:] for each in errors[-1:]),
    )
    what = "; ".join(filter(None, reasons)) or look.said
    raise StageError(
        f"job {job_record.job_id} ended as {look.state}: {what}",
        where=where,
        hint=f"see {page}; a rerun submits a new job",
    )


def _errors(service: JobClient, job_id: str) -> list[str]:
    """Errors that a job told of; none of a service that is silent, or forbids them."""
    try:
        return [each.text for each in service.messages(job_id, None) if each.level == "error"]
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
    mine = total(each for each in entries if each.attempt == job_record.attempt)
    return BudgetGuard(limits, job_record.started).passed(mine.amount)
