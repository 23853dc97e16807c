"""One poll of the costs of a stage that runs locally, for cost sensors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from nightbid.config.costs import Budget
from nightbid.cost.budget import (
    BudgetGuard,
    BudgetStatus,
    limits_of,
    observe,
    past_costs,
    project,
    request_cancel,
)
from nightbid.cost.price_book import PriceBook
from nightbid.night.record import RunRecord


@dataclass(frozen=True)
class StagePoll:
    """Result of one poll of a running stage."""

    spent_usd: Decimal
    """Cost of the attempt so far, at cloud prices."""
    projected_usd: Decimal
    """Estimated final cost of the attempt, at cloud prices."""
    done: float
    """Share of the work that is done, 0 to 1."""
    judgment: BudgetStatus
    reason: str
    """One-line reason if the judgment is not `ok`; otherwise empty."""
    ended: str
    """How the attempt ended (`done`, `stopped`, `failed`); empty while it runs."""
    at: datetime
    """Time of the newest sample; an old one means that the process is gone."""


def poll_stage(
    run: RunRecord,
    budget: Budget,
    stage: str,
    attempt: int,
    *,
    cancel: bool = True,
    book: PriceBook | None = None,
) -> StagePoll | None:
    """Poll a stage: read its usage log, record and judge its cost, ask it to stop if over budget.

    Polls have no shared state, so a restarted watcher counts nothing twice.

    Args:
        run: Run of the stage.
        budget: Budget of the pipeline.
        stage: Name of the stage.
        attempt: Number of the attempt at the stage, from 1.
        cancel: Whether to write the cancel marker if the stage is over budget.
        book: Price book; None: that of the installation.

    Returns:
        Result of the poll; None before the stage's first sample.
    """
    usage_log = run.usage_file(stage, attempt)
    pipeline = run.head.pipeline
    observation = observe(
        run.workspace,
        usage_log,
        pipeline=pipeline,
        run_id=run.run_id,
        stage=stage,
        attempt=attempt,
        book=book,
    )
    if observation is None:
        return None
    point, _ = observation
    started = datetime.fromtimestamp(point.at.timestamp() - point.usage.wall_seconds, UTC)
    limits = limits_of(
        budget,
        run.workspace,
        pipeline=pipeline,
        run_id=run.run_id,
        stage=stage,
        attempt=attempt,
        at=started,
    )
    guard = BudgetGuard(limits, started, book, budget.warn_at)
    spent = guard.cost(point.usage)
    projected = project(spent, point.done, past_costs(run, stage))
    judgment, reason = guard.budget_status(spent, projected)
    record = run.newest(stage)
    ended = record.state if record and record.attempt == attempt and not record.reused else ""
    if judgment == "over" and cancel and not ended:
        request_cancel(usage_log, reason)
    return StagePoll(spent, projected, point.done, judgment, reason, ended, point.at)


def poll_run(
    run: RunRecord, budget: Budget, *, cancel: bool = True, book: PriceBook | None = None
) -> dict[str, StagePoll]:
    """Poll the newest attempt of each running stage of a run; see `poll_stage`.

    Returns:
        Stage → result of the poll, without stages that have not started or have ended.
    """
    newest: dict[str, int] = {}
    for stage, number in run.usage_logs():
        newest[stage] = max(number, newest.get(stage, 0))
    polls: dict[str, StagePoll] = {}
    for stage, attempt in sorted(newest.items()):
        record = run.newest(stage)
        if record and not record.reused and record.attempt >= attempt:
            continue
        poll = poll_stage(run, budget, stage, attempt, cancel=cancel, book=book)
        if poll is not None and not poll.ended:
            polls[stage] = poll
    return polls
