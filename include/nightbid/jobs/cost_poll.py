"""One poll of a stage that runs locally: what a cost sensor does each time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from nightbid.config.costs import Budget
from nightbid.cost.budget import (
    BudgetGuard,
    Judgment,
    limits_of,
    observe,
    past_costs,
    project,
    request_cancel,
)
from nightbid.cost.pricing import PriceBook
from nightbid.night.record import RunRecord


@dataclass(frozen=True)
class StagePoll:
    """What one look at a running stage told."""

    spent_usd: Decimal
    """By this attempt so far, at the cloud's price."""
    projected_usd: Decimal
    """By this attempt in the end, as far as can be told."""
    done: float
    """Share of the work done, 0 to 1."""
    judgment: Judgment
    reason: str
    """One line where the judgment is not ok."""
    ended: str
    """How the attempt ended (`done`, `stopped`, `failed`); empty while it runs."""
    at: datetime
    """Time of the newest sample: an old one means that the process is gone."""


def poll_stage(
    run: RunRecord,
    budget: Budget,
    stage: str,
    attempt: int,
    *,
    cancel: bool = True,
    book: PriceBook | None = None,
) -> StagePoll | None:
    """Look once: trail, ledger, projection, verdict; ask the stage to stop if it is over budget.

    Keeps nothing between polls, so a restarted watcher counts nothing twice.

    Args:
        run: its run.
        budget: of the pipeline.
        stage: its name.
        attempt: which attempt at it.
        cancel: write the cancel marker over budget.
        book: prices.

    Returns:
        None before the stage's first sample.
    """
    usage_log = run.usage_file(stage, attempt)
    pipeline = run.head.pipeline
    seen = observe(
        run.workspace,
        usage_log,
        pipeline=pipeline,
        run_id=run.run_id,
        stage=stage,
        attempt=attempt,
        book=book,
    )
    if seen is None:
        return None
    point, _ = seen
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
    """Look once at every stage of a run that is under way, at its newest attempt; see `poll_stage`.

    Returns:
        Stage → what was seen; stages that have not begun, or have ended, are left out.
    """
    newest: dict[str, int] = {}
    for stage, number in run.usage_logs():
        newest[stage] = max(number, newest.get(stage, 0))
    found: dict[str, StagePoll] = {}
    for stage, attempt in sorted(newest.items()):
        record = run.newest(stage)
        if record and not record.reused and record.attempt >= attempt:
            continue
        seen = poll_stage(run, budget, stage, attempt, cancel=cancel, book=book)
        if seen is not None and not seen.ended:
            found[stage] = seen
    return found
