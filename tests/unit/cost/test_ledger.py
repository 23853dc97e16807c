"""The ledger counts each usage once, no matter who writes it, when and how often."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.cost.entries import LedgerEntry
from nightbid.cost.ledger import (
    Ledger,
    price_entries,
    record_stage_usage,
    total,
    totals,
)
from nightbid.errors import PriceError
from nightbid.night.manifest import Usage
from nightbid.storage.workspace import Workspace

START = datetime(2026, 11, 23, 2, tzinfo=UTC)


def entry(
    stage: str = "train", attempt: int = 1, quantity: str = "1", **more: object
) -> LedgerEntry:
    values: dict[str, object] = {
        "pipeline": "ctr",
        "run_id": "ctr-1",
        "stage": stage,
        "attempt": attempt,
        "service": "machine",
        "resource": "vcpu_hour",
        "quantity": quantity,
        "cost_here": "0",
        "cost_cloud": str(Decimal(quantity) * Decimal("0.056")),
        "currency": "USD",
        "started": START,
        **more,
    }
    return LedgerEntry.model_validate(values)


def test_repeated_records_count_once_and_attempts_add_up(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    for attempt in (1, 1, 2):
        record_stage_usage(
            workspace,
            pipeline="ctr",
            run_id="ctr-1",
            stage="train",
            attempt=attempt,
            usage=Usage(cpu_seconds=3600),
            started=START,
            state="failed",
        )
    entries = Ledger(workspace).entries(pipeline="ctr")
    assert total(entries).amount == Decimal("0.112")


def test_totals_are_computed_by_stage_day_and_month(tmp_path: Path) -> None:
    ledger = Ledger(Workspace(str(tmp_path)))
    later = datetime(2026, 12, 1, tzinfo=UTC)
    ledger.append([entry(), entry("sample", 1, "2"), entry("sample", 2, "1", started=later)])
    entries = ledger.entries()
    assert {k: v.amount for k, v in totals(entries, "stage").items()} == {
        "train": Decimal("0.056"),
        "sample": Decimal("0.168"),
    }
    assert set(totals(entries, "day")) == {"2026-11-23", "2026-12-01"}
    assert totals(entries, "month")["2026-11"].amount == Decimal("0.168")
    assert len(ledger.entries(stage="sample")) == 2
    assert ledger.entries(pipeline="other") == []


def test_entries_of_different_currencies_cannot_be_added(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match="cannot add"):
        total([entry(), entry(attempt=2, currency="EUR")])


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.integers(0, 9)), max_size=12),
    st.integers(0, 3),
)
def test_entries_do_not_depend_on_order_repetition_or_compaction(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[str, int, int]], every: int
) -> None:
    expected: dict[tuple[str, int], int] = {}
    ledger = Ledger(Workspace(str(tmp_path_factory.mktemp("ledger"))))
    for index, (stage, attempt, quantity) in enumerate([*seen, *reversed(seen)]):
        ledger.append([entry(stage, attempt, str(quantity))])
        key = (stage, attempt)
        expected[key] = max(expected.get(key, 0), quantity)
        if every and index % every == 0:
            ledger.compact()
    quantities = {(e.stage, e.attempt): int(e.quantity) for e in ledger.entries()}
    assert quantities == expected


@settings(max_examples=30)
@given(
    attempts=st.lists(
        st.lists(st.integers(0, 10**6), min_size=1, max_size=4), min_size=1, max_size=5
    ),
    jobs=st.lists(st.integers(0, 10**6), max_size=4),
)
def test_costs_of_split_jobs_and_retries_add_up(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[list[int]], jobs: list[int]
) -> None:
    """Attempts are observed several times while they run; cloud jobs split one attempt's usage."""
    workspace = Workspace(str(tmp_path_factory.mktemp("ledger")))
    common = {"pipeline": "ctr", "run_id": "ctr-1", "stage": "train", "started": START}
    for number, readings in enumerate(attempts, start=1):
        for seconds in [*readings, *readings]:
            record_stage_usage(
                workspace,
                attempt=number,
                usage=Usage(cpu_seconds=seconds),
                state="running",
                **common,  # type: ignore[arg-type]
            )
    for number, seconds in enumerate(jobs):
        amounts = {"vcpu_hour": Decimal(seconds) / 3600}
        for _ in range(2):
            Ledger(workspace).append(
                price_entries(
                    amounts,
                    attempt=1,
                    service="dataflow_batch",
                    job=f"job-{number}",
                    **common,  # type: ignore[arg-type]
                )
            )
    used = sum(max(observed) for observed in attempts) + sum(jobs)
    expected = Decimal(used) / 3600 * Decimal("0.056")
    assert abs(total(Ledger(workspace).entries()).amount - expected) < Decimal("1e-20")


def test_metered_job_usage_replaces_the_estimate_of_its_stage(tmp_path: Path) -> None:
    ledger = Ledger(Workspace(str(tmp_path)))
    cloud = {"service": "dataflow_batch"}
    ledger.append([entry(quantity="7", **cloud), entry(quantity="1")])
    assert {e.quantity for e in ledger.entries()} == {7, 1}
    ledger.append([entry(quantity="2", job="a", **cloud), entry(quantity="3", job="b", **cloud)])
    assert sum(e.quantity for e in ledger.entries()) == 2 + 3 + 1
    ledger.append([entry(quantity="8", **cloud)])
    assert sum(e.quantity for e in ledger.entries()) == 2 + 3 + 1


@pytest.mark.slow
def test_concurrent_writes_and_compaction_lose_no_entry(tmp_path: Path) -> None:
    code = """
import sys
from datetime import UTC, datetime
from nightbid.cost.ledger import record_stage_usage
from nightbid.night.manifest import Usage
from nightbid.storage.workspace import Workspace
for number in range(60):
    record_stage_usage(Workspace(sys.argv[1]), pipeline="ctr", run_id=sys.argv[2], stage="train",
        attempt=number, usage=Usage(cpu_seconds=3600), started=datetime(2026, 11, 23, tzinfo=UTC),
        state="done")
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"run-{number}"])
        for number in range(3)
    ]
    ledger = Ledger(Workspace(str(tmp_path)))
    while any(writer.poll() is None for writer in writers):
        ledger.compact()
        ledger.entries()
    ledger.compact()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert total(ledger.entries()).amount == Decimal("0.056") * 180
    assert len(list((tmp_path / "ledger").rglob("*.json"))) == 0
