"""Unit costs, forecasts, exports, reconciliation and the command line."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.entries import LedgerEntry
from nightbid.cost.focus import export_focus, focus_row
from nightbid.cost.forecast import RunCost, backtest, forecast, forecast_stages, run_costs, unusual
from nightbid.cost.ledger import Ledger, price_entries, record_stage_usage
from nightbid.cost.money import Money
from nightbid.cost.price_book import PriceBook
from nightbid.cost.reconcile import reconcile
from nightbid.cost.storage import kept_outputs
from nightbid.errors import ConfigError, CorruptDataError, PriceError
from nightbid.night.attempts import StageRecord
from nightbid.night.manifest import FileEntry, Manifest, RowCounts, Usage
from nightbid.night.record import RunRecord
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace
from typer.testing import CliRunner

START = datetime(2026, 11, 23, 2, tzinfo=UTC)


def cost(usd: str, rows: int = 1_000_000, trained: int = 1, gain: float = 0.01) -> RunCost:
    return RunCost(
        run_id=f"r{usd}",
        night=date(2026, 1, 8),
        cloud=Money(Decimal(usd)),
        here=Money(Decimal(0)),
        rows=rows,
        trained=trained,
        auc_gain=gain,
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Record a run: 2 million sampled rows, two trained models, an AUC gain of 0.004."""
    workspace = Workspace(str(tmp_path / "w"))
    spec = PipelineSpec.model_construct(pipeline="ctr", features={})
    run = RunRecord.start(workspace, spec, date(2026, 1, 8))
    metrics: dict[str, dict[str, object]] = {
        "evaluate": {"difference": {"auc": {"value": 0.004, "low": 0.001, "high": 0.007}}},
        "load_test": {"requests_per_second_per_core": 200.0, "candidates": 100},
    }
    for stage in ("sample", "train", "train_baseline", "evaluate", "load_test"):
        manifest = Manifest(
            pipeline="ctr",
            run_id=run.run_id,
            stage=stage,
            night="2026-01-08",
            key=stage,
            digest="d",
            inputs={},
            spec_digest="s",
            code_digest="c",
            versions={},
            seed=0,
            rows=RowCounts(read=2_000_000),
            files=(FileEntry(path="part", size=2**30 if stage == "sample" else 0, digest="d"),),
            metrics=metrics.get(stage, {}),
            created=START,
        )
        folder = workspace.stage_folder("ctr", stage, stage)
        write_atomically(folder / "manifest.json", manifest.model_dump_json())
        run.record(
            StageRecord(
                stage=stage,
                state="done",
                uri=workspace.uri(folder),
                started=START,
                seconds=1,
            )
        )
        record_stage_usage(
            workspace,
            pipeline="ctr",
            run_id=run.run_id,
            stage=stage,
            attempt=1,
            usage=Usage(cpu_seconds=3600 if stage != "load_test" else 0),
            started=START,
            state="done",
        )
    return workspace


def test_unit_costs_are_computed_per_rows_model_and_auc_point(workspace: Workspace) -> None:
    (run,) = run_costs(workspace, "ctr")
    assert run.cloud.amount == Decimal("0.224")
    assert run.per_million_rows == Decimal("0.112")
    assert run.per_model == Decimal("0.112")
    assert run.per_auc_point == Decimal("0.56")  # 0.224 for 0.4 points


def test_unit_costs_are_none_without_a_gain_or_a_model() -> None:
    assert cost("1", gain=-0.1).per_auc_point is None
    assert cost("1", trained=0).per_model is None


def test_forecast_scales_with_rows_and_reports_its_past_error() -> None:
    past = [cost("1"), cost("2"), cost("3", rows=2_000_000), cost("9", trained=0)]
    expected = forecast(past, nights=10, rows=2_000_000)
    assert expected is not None
    assert expected.from_runs == 3
    assert expected.total_usd == Decimal("30")
    assert (expected.low_usd, expected.high_usd) == (20, 40)
    # Run 2 is forecast from run 1: 1 for 2, off by 1/2. Run 3 is forecast from both, exactly.
    assert expected.mean_error == pytest.approx(0.25)
    assert forecast([], nights=1) is None
    comparisons = backtest(past)
    assert [(comparison.run_id, comparison.expected_usd) for comparison in comparisons] == [
        ("r2", 1),
        ("r3", 3),
    ]
    assert [comparison.error for comparison in comparisons] == [-0.5, 0]


def test_a_sweep_is_forecast_from_stage_costs_of_earlier_nights(workspace: Workspace) -> None:
    # Each stage of the only night cost one vCPU-hour.
    times = {"sample": 1, "train": 20}
    assert forecast_stages(workspace, "ctr", times) == Decimal("1.176")
    assert forecast_stages(workspace, "ctr", {**times, "featurize": 1}) is None
    assert forecast_stages(workspace, "ctr", times, before=START - timedelta(days=99)) is None


def test_a_night_is_unusual_if_it_costs_more_per_row_than_earlier_ones() -> None:
    usual = [cost("1.0"), cost("1.1"), cost("0.9")]
    assert unusual([*usual, cost("1.4")]) is None
    assert unusual([*usual, cost("4", rows=4_000_000)]) is None
    assert unusual(usual) is None
    assert "2.0 times the median" in str(unusual([*usual, cost("2.0")]))


def test_outputs_are_priced_by_size_and_lifetime(workspace: Workspace) -> None:
    largest, *rest = kept_outputs(
        workspace, "ctr", now=START + timedelta(days=73), book=PriceBook.load()
    )
    assert (largest.stage, largest.outputs, largest.size_bytes) == ("sample", 1, 2**30)
    assert round(largest.so_far.amount, 9) == Decimal("0.048")  # 2.4 months at 0.02 a GB
    assert round(largest.per_month.amount, 9) == Decimal("0.02")
    assert {output.so_far.amount for output in rest} == {0}


MANDATORY = frozenset(
    {
        "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency",
        "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
        "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
        "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost", "PricingQuantity",
        "PricingUnit", "ServiceCategory", "ServiceName", "ServiceProviderName",
    }
)  # fmt: skip
"""Required columns of FOCUS 1.4, Cost and Usage."""


def test_focus_export_totals_match_the_ledger_in_csv_and_parquet(
    workspace: Workspace, tmp_path: Path
) -> None:
    entries = Ledger(workspace).entries()
    for name in ("focus.csv", "focus.parquet"):
        export_focus(entries, tmp_path / name)
    with (tmp_path / "focus.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    table = pq.read_table(tmp_path / "focus.parquet")
    assert MANDATORY <= set(table.column_names) == set(rows[0])
    assert table.column_names == sorted(table.column_names)
    assert not {"ProviderName", "PublisherName"} & set(table.column_names), "gone since 1.4"
    for name in MANDATORY - {"ChargeClass"}:
        assert table[name].null_count == 0, name
    assert sum(Decimal(row["ListCost"]) for row in rows) == Decimal("0.224")
    assert sum(table["ListCost"].to_pylist()) == Decimal("0.224")
    assert set(table["BilledCost"].to_pylist()) == {0}
    assert rows[0]["ChargePeriodStart"] == "2026-11-23T00:00:00Z"
    assert rows[0]["BillingPeriodEnd"] == "2026-12-01T00:00:00Z"
    assert table["BillingPeriodEnd"][0].as_py() == datetime(2026, 12, 1, tzinfo=UTC)
    assert json.loads(rows[0]["Tags"])["nightbid_run"] == "ctr-2026-01-08"
    with pytest.raises(ConfigError, match=r"cannot export to \.xls"):
        export_focus(entries, tmp_path / "focus.xls")
    export_focus(entries, tmp_path / "old.csv", "1.0")
    assert "ProviderName" in (tmp_path / "old.csv").read_text()


def test_focus_units_and_services_follow_the_specification(
    cloud_entries: list[LedgerEntry],
) -> None:
    units = {}
    for resource in ("vcpu_hour", "memory_gb_hour", "shuffle_gb", "pd-ssd_gb_hour", "gb_month",
                     "n1-standard-4_hour"):  # fmt: skip
        row = focus_row(cloud_entries[0].model_copy(update={"resource": resource}))
        units[resource] = row["PricingUnit"]
    assert list(units.values()) == ["Hours", "GB-Hours", "GB", "GB-Hours", "GB-Months", "Hours"]
    row = focus_row(cloud_entries[0])
    assert (row["ServiceCategory"], row["ServiceSubcategory"]) == ("Analytics", "Data Processing")


@pytest.fixture
def cloud_entries() -> list[LedgerEntry]:
    return list(
        price_entries(
            {"vcpu_hour": Decimal(10)},
            pipeline="ctr",
            run_id="ctr-1",
            stage="featurize",
            attempt=1,
            started=START,
            service="dataflow_batch",
            job="j1",
        )
    )


def bill(path: Path, rows: list[tuple[str, str, object]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["cost", "currency", "labels"])
        writer.writerows((cost, currency, json.dumps(marks)) for cost, currency, marks in rows)
    return path


def test_reconcile_reports_differences_and_unexplained_costs(
    cloud_entries: list[LedgerEntry], tmp_path: Path
) -> None:
    marks = [
        {"key": f"nightbid_{name}", "value": value}
        for name, value in (("pipeline", "ctr"), ("run", "ctr-1"), ("stage", "featurize"))
    ]
    path = bill(
        tmp_path / "bill.csv",
        [("0.40", "USD", marks), ("0.20", "USD", marks), ("3.5", "USD", []), ("-0.5", "USD", {})],
    )
    result = reconcile(cloud_entries, path)
    (line,) = result.lines
    assert line.where == ("ctr", "ctr-1", "featurize")
    assert (line.estimate.amount, line.invoice.amount) == (Decimal("0.56"), Decimal("0.60"))
    assert line.difference == Decimal("0.04")
    assert result.unexplained == Money(Decimal("3.0"))


def test_an_unreadable_bill_is_reported_with_its_line(
    cloud_entries: list[LedgerEntry], tmp_path: Path
) -> None:
    path = bill(tmp_path / "bill.csv", [("0.40", "USD", []), ("a lot", "USD", [])])
    with pytest.raises(CorruptDataError, match=r"bill.csv:3.*'a lot'"):
        reconcile(cloud_entries, path)
    with pytest.raises(PriceError, match="cannot add"):
        reconcile(
            cloud_entries,
            bill(tmp_path / "mixed.csv", [("1", "USD", []), ("1", "EUR", [])]),
        )


def test_cost_commands_print_costs_forecasts_and_prices(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightbid.cli import cost as cli

    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(workspace.root))
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()
    shown = runner.invoke(cli.app, ["show", "ctr"])
    assert "0.2240" in shown.output, shown.output
    assert "0.5600" in runner.invoke(cli.app, ["answers", "ctr"]).output
    assert "about 6.7200 USD" in runner.invoke(cli.app, ["forecast", "ctr"]).output
    assert "total" in runner.invoke(cli.app, ["storage", "ctr"]).output
    assert "0.056" in runner.invoke(cli.app, ["prices"]).output
    assert "folded" in runner.invoke(cli.app, ["compact"]).output
    # 1000 requests/s at 100 usable per core: 10 cores, each 0.02181159 + 4 × 0.00292353 an hour.
    served = runner.invoke(cli.app, ["serving", "ctr", "--requests-per-second", "1000"])
    assert "about 244.59 USD a month" in served.output
    # 10^6 / 100 candidates / 100 usable requests/s: 100 core-seconds of 0.03350571 an hour.
    assert "0.000931 USD per million predictions, 100 candidates a request" in served.output
    missing = runner.invoke(cli.app, ["show", "other"])
    assert isinstance(missing.exception, ConfigError)
