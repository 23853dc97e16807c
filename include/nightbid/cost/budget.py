"""Budget control of a running stage: usage logs, projections, budget status, and cancellation.

Used by the command line, the sensors and the meter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from upath import UPath

from nightbid.clock import is_fresh
from nightbid.config.costs import Budget
from nightbid.cost.entries import LedgerEntry
from nightbid.cost.ledger import Ledger, price_entries, record_stage_usage, total
from nightbid.cost.meter import cancel_marker
from nightbid.cost.money import exact, shown
from nightbid.cost.price_book import PriceBook, default_book
from nightbid.cost.pricing import price_usage, quantities
from nightbid.errors import BudgetExceeded
from nightbid.night.manifest import Usage
from nightbid.night.record import RunRecord
from nightbid.storage.files import is_local, write_atomically
from nightbid.storage.workspace import Workspace

log = logging.getLogger(__name__)

BudgetStatus = Literal["ok", "warn", "over"]
CEASED_SECONDS = 60.0
"""Seconds without a sample after which the process of a usage log counts as gone."""
FINISHED = frozenset({"done", "succeeded"})
"""States of an attempt, or of its cloud job, that succeeded."""
MINIMUM_SHARE = 0.02
"""Minimum share of the work that must be done for a projection."""


@dataclass(frozen=True)
class UsageSample:
    """Latest usage sample of a running stage."""

    at: datetime
    done: float
    """Share of the work that is done, 0 to 1."""
    usage: Usage


def read_usage_log(path: UPath | Path) -> UsageSample | None:
    """Get the newest sample of a usage log; None if there is none. Ignores a half-written line."""
    try:
        if is_local(path):
            with path.open("rb") as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - 8192))
                lines = stream.read().split(b"\n")[:-1]
        else:
            lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            values = json.loads(line)
            at = datetime.fromtimestamp(values["at"], UTC)
            usage = Usage(**{name: values[name] for name in Usage.model_fields if name in values})
            return UsageSample(at, float(values.get("done", 0.0)), usage)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def project(spent: Decimal, done: float, past: Sequence[Decimal] = ()) -> Decimal:
    """Estimate the final cost of running work.

    The estimate is linear in the share done, and the median of past runs while too little is done.
    It is never below the cost so far.

    Args:
        spent: Cost so far.
        done: Share of the work that is done, 0 to 1.
        past: Final costs of the same work on earlier nights.
    """
    if done >= MINIMUM_SHARE:
        expected = spent / exact(min(done, 1.0))
    elif past:
        expected = sorted(past)[len(past) // 2]
    else:
        expected = spent
    return max(expected, spent)


def past_costs(run: RunRecord, stage: str) -> list[Decimal]:
    """List the total cost of this stage in each other run of the pipeline in which it finished."""
    by_run: dict[str, list[LedgerEntry]] = {}
    for entry in Ledger(run.workspace, lenient=True).entries(
        pipeline=run.head.pipeline, stage=stage
    ):
        if entry.run_id != run.run_id and entry.state in FINISHED:
            by_run.setdefault(entry.run_id, []).append(entry)
    return [total(entries).amount for entries in by_run.values()]


def budget_status(
    limit_usd: Decimal | None, spent_usd: Decimal, projected_usd: Decimal, warn_at: float
) -> BudgetStatus:
    """Judge a cost by its limit.

    Args:
        limit_usd: Limit; None: no limit.
        spent_usd: Cost so far.
        projected_usd: Estimated final cost.
        warn_at: Share of the limit from which the result is `warn`.

    Returns:
        `over` if the cost exceeds the limit; `warn` if it exceeds the share `warn_at` of it, or the
        projection exceeds the limit; otherwise `ok`.
    """
    if limit_usd is None:
        return "ok"
    if spent_usd > limit_usd:
        return "over"
    if spent_usd >= limit_usd * exact(warn_at) or projected_usd > limit_usd:
        return "warn"
    return "ok"


@dataclass(frozen=True)
class BudgetLimit:
    """A limit that applies to a stage of a run, and how much of it is already used."""

    name: str
    """Name for messages: `stage train`, `run ctr-2026-01-08`, `day 2026-11-23`."""
    limit_usd: Decimal
    before_usd: Decimal
    """Cost of everything else under this limit, including earlier attempts."""


def limits_of(
    budget: Budget,
    workspace: Workspace,
    *,
    pipeline: str,
    run_id: str,
    stage: str,
    attempt: int,
    at: datetime,
) -> list[BudgetLimit]:
    """List the limits that apply to an attempt, with the used part of each."""
    day = at.astimezone(UTC).date()
    month = f"{day:%Y-%m}"
    limits: list[tuple[str, Decimal | None]] = [
        (f"stage {stage}", budget.stage_usd.get(stage)),
        (f"run {run_id}", budget.run_usd),
        (f"day {day}", budget.day_usd),
        (f"month {month}", budget.month_usd),
    ]
    if all(limit is None for _, limit in limits):
        return []
    # Read the ledger of the whole pipeline only if a limit spans runs.
    spans_runs = budget.day_usd is not None or budget.month_usd is not None
    entries = [
        entry
        for entry in Ledger(workspace, lenient=True).entries(
            pipeline=pipeline, run_id=None if spans_runs else run_id
        )
        if (entry.run_id, entry.stage, entry.attempt) != (run_id, stage, attempt)
    ]
    groups: dict[str, list[LedgerEntry]] = {
        f"stage {stage}": [
            entry for entry in entries if entry.run_id == run_id and entry.stage == stage
        ],
        f"run {run_id}": [entry for entry in entries if entry.run_id == run_id],
        f"day {day}": [entry for entry in entries if entry.day == day],
        f"month {month}": [entry for entry in entries if f"{entry.day:%Y-%m}" == month],
    }
    return [
        BudgetLimit(name, limit, total(groups[name]).amount)
        for name, limit in limits
        if limit is not None
    ]


class BudgetGuard:
    """Stops a stage that exceeds a limit; the meter calls it with the usage so far.

    Args:
        limits: Limits of the attempt, from `limits_of`.
        at: Start of the attempt.
        book: Price book; None: that of the installation.
        warn_at: Share of a limit from which a warning is logged, once per limit.
    """

    def __init__(
        self,
        limits: Sequence[BudgetLimit],
        at: datetime,
        book: PriceBook | None = None,
        warn_at: float = 0.8,
    ) -> None:
        self._limits = limits
        self._warn_at = warn_at
        self._warned: set[str] = set()
        self._day = at.astimezone(UTC).date()
        self._book = book or default_book()

    def cost(self, usage: Usage) -> Decimal:
        """Compute the cost of a usage in USD, at cloud prices."""
        return price_usage(usage, self._book, at=self._day, where="cloud").amount

    def __call__(self, usage: Usage) -> str | None:
        """Return a text that names the exceeded limit, or None."""
        return self.passed(self.cost(usage)) if self._limits else None

    def passed(self, spent_usd: Decimal) -> str | None:
        """Return a text that names the limit that a cost of the attempt exceeds, or None."""
        judgment, reason = self.budget_status(spent_usd)
        return reason if judgment == "over" else None

    def budget_status(
        self, spent_usd: Decimal, projected_usd: Decimal | None = None
    ) -> tuple[BudgetStatus, str]:
        """Judge an attempt by the limit that is closest to being exceeded.

        Args:
            spent_usd: Cost of the attempt so far.
            projected_usd: Estimated final cost of the attempt; None: unknown.
        """
        worst: tuple[BudgetStatus, str] = ("ok", "")
        for limit in self._limits:
            spent = limit.before_usd + spent_usd
            expected = limit.before_usd + max(projected_usd or spent_usd, spent_usd)
            judgment = budget_status(limit.limit_usd, spent, expected, self._warn_at)
            text = f"{limit.limit_usd.normalize():f} USD"
            if judgment == "over":
                return "over", (
                    f"{limit.name} has cost {shown(spent)} USD, over its limit of {text}: canceled"
                )
            if judgment == "warn":
                worst = (
                    "warn",
                    f"{limit.name} has cost {shown(spent)} USD of its limit of {text},"
                    f" {shown(expected)} USD expected",
                )
                if limit.name not in self._warned:
                    self._warned.add(limit.name)
                    log.warning(worst[1])
        return worst

    def check_before(self) -> None:
        """Refuse to start an attempt without remaining budget, or whose cost cannot be priced.

        Raises:
            BudgetExceeded: A limit is already used up.
            PriceError: The price of a machine's time is missing or expired.
        """
        self.cost(Usage(cpu_seconds=1, gb_seconds=1))
        for limit in self._limits:
            if limit.before_usd >= limit.limit_usd:
                raise BudgetExceeded(
                    f"{limit.name} has already cost {shown(limit.before_usd)} USD of its limit of"
                    f" {limit.limit_usd.normalize():f} USD: not started",
                    where="budget",
                    hint="raise the limit in the pipeline's budget block",
                )


def request_cancel(usage_log: UPath | Path, reason: str) -> None:
    """Ask the stage of a usage log to stop: it raises BudgetExceeded and leaves no output.

    Args:
        usage_log: Path of the usage log, from `RunRecord.usage_file`.
        reason: One-line reason for users.
    """
    write_atomically(cancel_marker(usage_log), reason + "\n")


def observe(
    workspace: Workspace,
    usage_log: UPath | Path,
    *,
    pipeline: str,
    run_id: str,
    stage: str,
    attempt: int,
    book: PriceBook | None = None,
    record: bool = True,
) -> tuple[UsageSample, list[LedgerEntry]] | None:
    """Read the usage log of a running stage and record it in the ledger: a poll of a cost sensor.

    Polling twice, or after the stage has recorded its own final usage, changes nothing.
    """
    point = read_usage_log(usage_log)
    if point is None:
        return None
    started = datetime.fromtimestamp(point.at.timestamp() - point.usage.wall_seconds, UTC)
    entries = price_entries(
        quantities(point.usage),
        pipeline=pipeline,
        run_id=run_id,
        stage=stage,
        attempt=attempt,
        started=started,
        book=book,
    )
    if record:
        Ledger(workspace).append(entries)
    return point, entries


def recover_usage_logs(run: RunRecord) -> int:
    """Record the usage of attempts that were killed before they could record it themselves.

    Returns:
        Number of attempts with usage to record. A running attempt is recorded as of now, and later
        records its final usage itself.
    """
    workspace, pipeline, run_id = run.workspace, run.head.pipeline, run.run_id
    entered: dict[tuple[str, int], Decimal] = {}
    ended: set[tuple[str, int]] = set()
    for entry in Ledger(workspace, lenient=True).entries(pipeline=pipeline, run_id=run_id):
        attempt = (entry.stage, entry.attempt)
        if entry.state != "running":
            ended.add(attempt)
        elif entry.resource == "vcpu_hour":
            entered[attempt] = entry.quantity
    count = 0
    for stage, number in run.usage_logs():
        if (stage, number) in ended:
            continue
        point = read_usage_log(run.usage_file(stage, number))
        if point is None:
            continue
        ceased = not is_fresh(point.at, CEASED_SECONDS)
        cpu = quantities(point.usage).get("vcpu_hour", Decimal(0))
        if not ceased and cpu <= entered.get((stage, number), Decimal(-1)):
            continue
        started = datetime.fromtimestamp(point.at.timestamp() - point.usage.wall_seconds, UTC)
        record_stage_usage(
            workspace,
            pipeline=pipeline,
            run_id=run_id,
            stage=stage,
            attempt=number,
            usage=point.usage,
            started=started,
            state="killed" if ceased else "running",
        )
        count += 1
    return count
