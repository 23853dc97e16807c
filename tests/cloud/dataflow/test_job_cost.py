"""The ledger is exact despite faults of the metrics service, and a runaway job is stopped."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.cost.budget import BudgetGuard, BudgetLimit
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.price_book import PriceBook
from nightbid.jobs.dataflow_meter import (
    SERVICE,
    UNITS,
    Clients,
    DataflowMeter,
    billable_shuffle_gb,
)
from nightbid.jobs.meter import MeteredJob
from nightbid.storage.workspace import Workspace

HOURS = 3600.0
FINAL = (
    ("TotalVcpuTime", 40 * HOURS),
    ("TotalMemoryUsage", 150 * 1024 * HOURS),
    ("TotalPdUsage", 1000 * HOURS),
    ("TotalSsdUsage", 0.0),
    ("TotalGpuTime", 2 * HOURS),
    ("TotalShuffleDataProcessed", 300.0),
    ("BillableShuffleDataProcessed", 87.5),
)
BILL = Decimal("4.63")
"""40×0.056 + 150×0.003557 + 1000×0.000054 + 2×0.42 + 87.5×0.011 = 4.63005."""
HALF = tuple((name, value / 2) for name, value in FINAL)


def meter(service: Any, tmp_path: Path, limit: str = "1000", **options: float) -> DataflowMeter:
    job = MeteredJob("project", "us-central1", "job-1", "ctr", "ctr-1", "featurize", 1)
    at = datetime(2026, 11, 23, tzinfo=UTC)
    guard = BudgetGuard([BudgetLimit("run ctr-1", Decimal(limit), Decimal(0))], at)
    clients = Clients.connect(service.endpoint)
    return DataflowMeter(job, Workspace(str(tmp_path)), clients, guard, **options)


def bill(tmp_path: Path) -> Decimal:
    return total(Ledger(Workspace(str(tmp_path))).entries()).cents()


def settle(job: DataflowMeter, **options: Any) -> Any:
    return job.settle(every_seconds=0.01, bound_seconds=0.2, sleep=lambda seconds: None, **options)


def test_final_cost_waits_for_late_metrics(dataflow_service: Any, tmp_path: Path) -> None:
    dataflow_service.states = ["DONE"]
    dataflow_service.metrics = [(), (), HALF[:1], HALF, FINAL]
    final = settle(meter(dataflow_service, tmp_path))
    assert final.complete
    assert bill(tmp_path) == BILL


def test_missing_metrics_end_the_wait_and_mark_the_cost_incomplete(
    dataflow_service: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataflow_service.states = ["DONE"]
    dataflow_service.metrics = [FINAL[2:]]
    final = settle(meter(dataflow_service, tmp_path))
    assert not final.complete
    assert "missing: memory_gb_hour, vcpu_hour" in caplog.text


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([HALF, FINAL, HALF, FINAL[:3]], id="decreasing"),
        pytest.param([FINAL[::2], HALF, FINAL[1::2]], id="missing"),
        pytest.param([(*FINAL, *FINAL, *HALF)], id="duplicated"),
        pytest.param([(*FINAL, ("~TotalVcpuTime", 1e9), ("TotalPdUsage", -5.0))], id="tentative"),
        pytest.param([tuple(e for e in FINAL if not e[0].startswith("Bill"))], id="unweighted"),
    ],
)
def test_disordered_metrics_give_the_exact_cost(
    dataflow_service: Any, tmp_path: Path, answers: list[Any]
) -> None:
    dataflow_service.states = ["RUNNING", "RUNNING", "RUNNING", "DONE"]
    dataflow_service.metrics = answers
    job = meter(dataflow_service, tmp_path)
    for _ in range(4):
        job.poll()
    assert settle(job).complete
    assert bill(tmp_path) == BILL


def test_errors_and_timeouts_of_polls_do_not_change_the_cost(
    dataflow_service: Any, tmp_path: Path, fault: Any
) -> None:
    dataflow_service.states = [
        fault(grpc.StatusCode.UNAVAILABLE, "try later"),
        "RUNNING",
        "RUNNING",
        "DONE",
    ]
    dataflow_service.metrics = [
        HALF,
        fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for metrics"),
        fault(None, delay=1.0),
        FINAL,
    ]
    job = meter(dataflow_service, tmp_path)
    assert "try later" in job.poll().trouble
    second = job.poll()
    assert "Quota exceeded" in second.trouble
    assert second.spent_usd == pytest.approx(BILL / 2, abs=Decimal("0.01"))
    # Only this response comes too late.
    assert "DeadlineExceeded" in meter(dataflow_service, tmp_path, timeout=0.3).poll().trouble
    assert settle(job).complete
    assert bill(tmp_path) == BILL


def test_a_vanished_job_costs_its_last_known_usage(
    dataflow_service: Any, tmp_path: Path, fault: Any
) -> None:
    gone = fault(grpc.StatusCode.NOT_FOUND, "no such job")
    dataflow_service.states = ["RUNNING", gone]
    dataflow_service.metrics = [FINAL, gone]
    job = meter(dataflow_service, tmp_path)
    job.poll()
    final = settle(job)
    assert (final.state, final.complete) == ("VANISHED", False)
    assert bill(tmp_path) == BILL


def test_a_restarted_meter_counts_no_usage_twice(dataflow_service: Any, tmp_path: Path) -> None:
    dataflow_service.metrics = [HALF, FINAL, HALF]
    meter(dataflow_service, tmp_path).poll()
    meter(dataflow_service, tmp_path).poll()
    last = meter(dataflow_service, tmp_path).poll()
    assert not last.grew
    assert bill(tmp_path) == BILL


def test_a_job_over_its_limit_is_canceled_when_the_first_cancel_fails(
    dataflow_service: Any, tmp_path: Path, fault: Any
) -> None:
    dataflow_service.metrics = [HALF, FINAL, FINAL]
    dataflow_service.cancel_faults = [fault(grpc.StatusCode.UNAVAILABLE, "busy")]
    job = meter(dataflow_service, tmp_path, limit="3")
    first = job.poll()
    assert (first.judgment, first.cancelled) == ("ok", False)
    over = job.poll()
    assert over.judgment == "over"
    assert "over its limit of 3 USD" in over.reason
    assert "cancel: ServiceUnavailable" in over.trouble
    assert job.poll().cancelled
    assert dataflow_service.cancelled_after == 3  # over its limit at the second response
    assert job.poll().state == "CANCELLED"
    assert settle(job).complete
    assert bill(tmp_path) == BILL  # the usage of a canceled job is paid


volume = st.decimals(0, 20000, places=3)


@given(volume, volume)
def test_billable_shuffle_never_exceeds_the_volume_and_grows_with_it(
    a: Decimal, b: Decimal
) -> None:
    small, large = sorted((a, b))
    assert billable_shuffle_gb(small) <= billable_shuffle_gb(large) <= large
    assert billable_shuffle_gb(Decimal(250)) == Decimal("62.5")
    assert billable_shuffle_gb(Decimal(5120)) == Decimal("2497.5")


def test_every_resource_of_a_job_has_a_price() -> None:
    for resource, _ in UNITS.values():
        assert PriceBook.load().unit_price(SERVICE, resource, at=date(2026, 11, 23)).amount > 0
