"""Unit costs (per million rows, model and AUC point) and forecasts, computed from the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from nightbid.cost.ledger import Ledger, total, totals
from nightbid.cost.money import Money, shown
from nightbid.counts import counted
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord, runs_of
from nightbid.storage.workspace import Workspace, read_manifest

log = logging.getLogger(__name__)
MILLION = Decimal(1_000_000)
MINIMUM_HISTORY = 3
UNUSUAL = Decimal("1.5")
"""Ratio of a night's cost per row to the median of its history from which an alert is raised."""


@dataclass(frozen=True)
class RunCost:
    """Cost of a run, with its rows, trained models and AUC gain."""

    run_id: str
    night: date
    cloud: Money
    here: Money
    rows: int
    """Number of rows read from the logs."""
    trained: int
    """Number of models that the run trained itself (a reused model costs nothing)."""
    auc_gain: float | None
    """AUC of the candidate minus that of the reference; None if there is no evaluation."""

    @property
    def per_million_rows(self) -> Decimal | None:
        """Cost at cloud prices per million rows of logs."""
        return self.cloud.amount * MILLION / self.rows if self.rows else None

    @property
    def per_model(self) -> Decimal | None:
        """Cost at cloud prices per trained model."""
        return self.cloud.amount / self.trained if self.trained else None

    @property
    def per_auc_point(self) -> Decimal | None:
        """Cost at cloud prices per 0.01 of AUC gained; None without a gain."""
        if self.auc_gain is None or self.auc_gain <= 0:
            return None
        return self.cloud.amount / (Decimal(str(self.auc_gain)) * 100)

    @property
    def is_whole(self) -> bool:
        """Whether the run did all of the night's work itself; forecasts use only such runs."""
        return self.trained > 0 and self.rows > 0


def run_costs(workspace: Workspace, pipeline: str, *, lenient: bool = False) -> list[RunCost]:
    """List the runs of a pipeline that have a cost, in the order of their start.

    Args:
        workspace: Workspace with the runs.
        pipeline: Name of the pipeline.
        lenient: Whether to skip damaged files of the ledger with a warning.
    """
    ledger = Ledger(workspace, lenient=lenient)
    by_run: dict[str, list[int]] = {}
    entries = ledger.entries(pipeline=pipeline)
    for index, entry in enumerate(entries):
        by_run.setdefault(entry.run_id, []).append(index)
    costs = []
    for run in runs_of(workspace, pipeline):
        run_entries = [entries[index] for index in by_run.get(run.run_id, [])]
        if not run_entries:
            continue
        records = run.records()
        trained = {
            record.stage
            for record in records
            if record.stage.startswith("train") and record.state == "done" and not record.reused
        }
        evaluated = _manifest(run, "evaluate")
        sampled = _manifest(run, "sample")
        costs.append(
            RunCost(
                run_id=run.run_id,
                night=run.date,
                cloud=total(run_entries),
                here=total(run_entries, here=True),
                rows=sampled.rows.read if sampled else 0,
                trained=len(trained),
                auc_gain=_auc_gain(evaluated),
            )
        )
    return costs


@dataclass(frozen=True)
class ServingRate:
    """Rate that one core served in a load test."""

    requests_per_second_per_core: float
    candidates: int
    """Number of candidates scored per request."""
    p99_ms: float | None = None
    """Latency objective that the scorer held at this rate over its socket, in milliseconds; None:
    the rate was measured in process."""


def measured_rate(workspace: Workspace, pipeline: str) -> ServingRate | None:
    """Get the rate from the newest load test; None if there is none."""
    for run in reversed(runs_of(workspace, pipeline)):
        tested = _manifest(run, "load_test")
        rate = tested.metrics.get("requests_per_second_per_core") if tested else None
        if tested and rate:
            served = tested.metrics.get("served")
            if served and (held := served["candidate"]["requests_per_second"]):
                # The rate that the scorer holds, including the client, is the relevant one.
                per_core = float(held) / served["candidate"]["processes"]
                objective = served["objective"]
                return ServingRate(
                    per_core, int(objective["candidates"]), float(objective["p99_ms"])
                )
            return ServingRate(float(rate), int(tested.metrics["candidates"]))
    return None


def _manifest(run: RunRecord, stage: str) -> Manifest | None:
    record = run.stage(stage)
    if record is None or not record.uri:
        return None
    try:
        return read_manifest(run.workspace.at(record.uri))
    except CorruptDataError as error:
        log.warning("left out: %s", error)
    except WorkspaceError:
        pass  # The output was deleted.
    return None


def _auc_gain(evaluated: Manifest | None) -> float | None:
    if evaluated is None:
        return None
    value = evaluated.metrics.get("difference", {}).get("auc", {}).get("value")
    return None if value is None else float(value)


@dataclass(frozen=True)
class Forecast:
    """Forecast cost of nights, and the error of past forecasts."""

    nights: int
    rows_per_night: int
    total_usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    """Upper bound; both bounds use the cheapest and most expensive past night, per row."""
    from_runs: int
    mean_error: float | None
    """Mean of |forecast − actual| / actual over past runs; see `backtest`."""


@dataclass(frozen=True)
class Backtest:
    """A past run and its forecast from the runs before it."""

    run_id: str
    expected_usd: Decimal
    actual_usd: Decimal

    @property
    def error(self) -> float:
        """Relative error: (forecast − actual) / actual."""
        return float(self.expected_usd / self.actual_usd) - 1


def backtest(past: Sequence[RunCost]) -> list[Backtest]:
    """Compare each past run with the forecast from the runs before it.

    Args:
        past: Past runs, oldest first; runs that reused their training are ignored.
    """
    backtests: list[Backtest] = []
    rates: list[Decimal] = []
    for run in past:
        rate = run.per_million_rows
        if not run.is_whole or rate is None:
            continue
        if rates and run.cloud.amount:
            expected = _median(rates) * run.rows / MILLION
            backtests.append(Backtest(run.run_id, expected, run.cloud.amount))
        rates.append(rate)
    return backtests


def forecast(past: Sequence[RunCost], nights: int, rows: int | None = None) -> Forecast | None:
    """Forecast the cost of nights from past ones: median cost per row, times rows.

    Args:
        past: Past runs, oldest first; runs that reused their training are ignored.
        nights: Number of future nights (or of trials of a sweep).
        rows: Number of rows per night; None: as many as the newest run read.

    Returns:
        The forecast; None without a past run.
    """
    whole = [run for run in past if run.is_whole]
    if not whole:
        return None
    rates = [rate for run in whole if (rate := run.per_million_rows) is not None]
    size = rows or whole[-1].rows
    scale = Decimal(size) / MILLION * nights
    errors = [abs(comparison.error) for comparison in backtest(whole)]
    return Forecast(
        nights=nights,
        rows_per_night=size,
        total_usd=_median(rates) * scale,
        low_usd=min(rates) * scale,
        high_usd=max(rates) * scale,
        from_runs=len(rates),
        mean_error=sum(errors) / len(errors) if errors else None,
    )


def forecast_stages(
    workspace: Workspace,
    pipeline: str,
    times: Mapping[str, int],
    *,
    before: datetime | None = None,
) -> Decimal | None:
    """Forecast the cost of some stages, for example of a sweep before it starts.

    The forecast is the median cost per row of each stage on past nights, times the rows of the
    newest night.

    Args:
        workspace: Workspace with the past nights.
        pipeline: Name of the pipeline.
        times: Stage → number of times that it will run.
        before: Only use nights that started before this time; None: use all.

    Returns:
        USD at cloud prices; None if a stage has never run.
    """
    rates: dict[str, list[Decimal]] = {}
    rows = 0
    ledger = Ledger(workspace)
    for run in runs_of(workspace, pipeline):
        sampled = _manifest(run, "sample")
        if (before is not None and run.head.started >= before) or not sampled:
            continue
        if sampled.rows.read:
            rows = sampled.rows.read
            entries = ledger.entries(pipeline=pipeline, run_id=run.run_id)
            for stage, cost in totals(entries, "stage").items():
                rates.setdefault(stage, []).append(cost.amount / rows)
    if not rates.keys() >= times.keys():
        return None
    return sum((_median(rates[stage]) * rows * count for stage, count in times.items()), Decimal(0))


def alert_limits(rates: Sequence[Decimal | None]) -> list[Decimal | None]:
    """Compute for each night the cost per million rows from which it is unusual.

    Args:
        rates: Cost per million rows of each night, oldest first; None if a night has none.

    Returns:
        One limit per night, from the nights before it; None if these are too few.
    """
    limits: list[Decimal | None] = []
    before: list[Decimal] = []
    for rate in rates:
        usual = _median(before) if len(before) >= MINIMUM_HISTORY else Decimal(0)
        limits.append(usual * UNUSUAL or None)
        if rate is not None:
            before.append(rate)
    return limits


def unusual(past: Sequence[RunCost]) -> str | None:
    """Write an alert if the newest night cost much more per row than its history; else None."""
    known = [
        (run, rate) for run in past if run.is_whole and (rate := run.per_million_rows) is not None
    ]
    limits = alert_limits([rate for _, rate in known])
    if not known or (limit := limits[-1]) is None or known[-1][1] <= limit:
        return None
    newest, rate = known[-1]
    usual = limit / UNUSUAL
    return (
        f"{newest.run_id} cost {shown(rate)} {newest.cloud.currency} per million rows,"
        f" {rate / usual:.1f} times the median of the {counted(len(known) - 1, 'night')} before"
        f" ({shown(usual)})"
    )


def _median(values: Sequence[Decimal]) -> Decimal:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
