"""The `replay` stage and its gate, over rows of the simulated exchange."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.bidding import stage as replay_stage
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.errors import CorruptDataError, MissingDataError, NightbidError
from nightbid.gates import value as gate_value
from nightbid.night.manifest import Manifest
from nightbid.night.task import Outcome, StageInput, StageTask
from nightbid.schema import KEY, LABEL, TIME, TRUTH, USER, WEIGHT
from pydantic import ValidationError
from tasks import task_of
from upath import UPath

NEWEST = date(2026, 1, 12)
BEFORE = date(2026, 1, 11)
BLOCKS: dict[str, Any] = {
    "pipeline": "t",
    "features": {"site_id": "vocabulary"},
    "columns": {"price": "win_price", "bid": "bid", "floor": "floor_price"},
    "replay": {"value": 0.03},
}


def spec_of(**blocks: Any) -> PipelineSpec:
    return PipelineSpec.model_validate({**BLOCKS, **blocks})


def input_of(folder: Path, name: str, metrics: dict[str, Any] | None = None) -> StageInput:
    manifest = Manifest(
        pipeline="t", run_id="r", stage=name, night=str(NEWEST), key="", digest="", inputs={},
        spec_digest="", code_digest="", versions={}, seed=0, metrics=metrics or {},
        created=datetime(2026, 1, 13, tzinfo=UTC),
    )  # fmt: skip
    return StageInput(manifest, UPath(folder / name))


@pytest.fixture(scope="module")
def days() -> dict[date, pa.Table]:
    logs = SimulatorLogs(SimulatorSource(rows_per_day=20_000, competing_bids=True))
    tables = {}
    for day in (BEFORE, NEWEST):
        table = pa.Table.from_batches(list(logs.batches(day)))
        users = np.unique(table["user_id"].to_pylist(), return_inverse=True)[1]
        for name, column in {
            KEY: table["impression_id"].cast(pa.int64()),
            LABEL: table["click"].cast(pa.float32()),
            WEIGHT: pa.array(np.ones(len(table), np.float32)),
            TIME: table["time"],
            USER: pa.array(users.astype(np.int64)),
            TRUTH: table["p_click_true"],
        }.items():
            table = table.append_column(name, column)
        tables[day] = table
    return tables


class Ran:
    def __init__(self, folder: Path, spec: PipelineSpec) -> None:
        self.folder, self.spec = folder, spec

    def task(self, inputs: dict[str, StageInput]) -> StageTask:
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        return task_of(
            self.spec, NEWEST, out, workspace=self.folder, cache=self.folder, inputs=inputs
        )

    def replay(self) -> Outcome:
        inputs = {name: input_of(self.folder, name) for name in ("sample", "evaluate")}
        return replay_stage.run(self.task(inputs))

    def gate(self, metrics: dict[str, Any]) -> Outcome:
        return gate_value.measure(self.task({"replay": input_of(self.folder, "replay", metrics)}))


def night(
    folder: Path, days: dict[date, pa.Table], factors: dict[str, float], **blocks: Any
) -> Ran:
    for split, day in (("validate", BEFORE), ("evaluate", NEWEST)):
        path = folder / "sample" / f"split={split}" / f"dt={day}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(days[day], path)
    rows = days[NEWEST]
    true = rows[TRUTH].to_numpy()
    scores = {name: np.minimum(true * factor, 1) for name, factor in factors.items()}
    path = folder / "evaluate" / "scores" / "part-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({KEY: rows[KEY], **{n: pa.array(s) for n, s in scores.items()}}), path)
    return Ran(folder, spec_of(**blocks))


@pytest.mark.parametrize(("value", "which"), [(1e6, "every"), (1e-9, "no"), (0.03, "")])
def test_a_value_in_another_unit_than_the_prices_is_reported(
    tmp_path: Path, days: dict[date, pa.Table], value: float, which: str
) -> None:
    factors = {"candidate": 1.0, "champion": 1.1, "baseline": 0.5}
    summary = night(tmp_path, days, factors, replay={"value": value}).replay().summary
    assert ("both win" in summary) == bool(which)
    assert f"both win {which}" in summary or not which


def changed(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_a_miscalibrated_candidate_loses_surplus_and_the_gate_warns(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    stages = night(tmp_path, days, {"candidate": 2.0, "champion": 1.1, "baseline": 0.5})
    outcome = stages.replay()
    bidders = outcome.metrics["bidders"]

    assert list(bidders) == ["candidate", "champion", "baseline", "truth"]
    best = bidders["truth"]["expected_surplus"]
    assert 0.15 < 1 - bidders["candidate"]["expected_surplus"] / best < 0.3
    difference = outcome.metrics["differences"]["champion"]["expected_surplus"]
    assert difference["high"] < 0
    assert "against the champion" in outcome.summary
    assert json.loads((tmp_path / "out" / "replay.json").read_text())["auctions"] == len(
        days[NEWEST]
    )
    auctions = pq.read_table(tmp_path / "out" / "auctions.parquet")
    assert {"price", "click", "floor", "user", "candidate", "truth"} <= set(auctions.column_names)

    gate = stages.gate(outcome.metrics)
    assert gate.verdict == "warn"
    assert "surplus_loss" in gate.summary


def test_the_gate_passes_an_equal_candidate(tmp_path: Path, days: dict[date, pa.Table]) -> None:
    stages = night(tmp_path, days, {"candidate": 1.0, "baseline": 1.0})
    outcome = stages.replay()
    assert outcome.metrics["differences"]["baseline"]["surplus"]["value"] == 0
    assert stages.gate(outcome.metrics).verdict == "pass"


def test_replay_is_skipped_without_a_replay_block(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    stages = night(tmp_path, days, {"candidate": 1.0, "baseline": 1.0}, replay=None)
    outcome = stages.replay()
    assert outcome.summary == "no replay: the pipeline has no `replay` block"
    assert stages.gate(dict(outcome.metrics)).verdict == "pass"


@pytest.mark.parametrize("pricing", ["second", "first"])
def test_bidders_spend_within_their_budget(
    tmp_path: Path, days: dict[date, pa.Table], pricing: str
) -> None:
    block = {"value": 0.03, "pricing": pricing, "budget": 2.0}
    stages = night(tmp_path, days, {"candidate": 1.0, "baseline": 0.7}, replay=block)
    for name, totals in stages.replay().metrics["bidders"].items():
        assert 1.5 < totals["spend"] <= 2.0 * (1 + 1e-12), name
        assert sum(totals["spend_by_hour"][:12]) > 0.3, name


def test_a_small_day_spends_its_budget_evenly(tmp_path: Path, days: dict[date, pa.Table]) -> None:
    few = {day: table.take(np.arange(0, len(table), 10)) for day, table in days.items()}
    plain = night(tmp_path / "a", few, {"candidate": 1.0, "baseline": 0.5})
    all_spent = plain.replay().metrics["bidders"]["candidate"]["spend"]
    budget = all_spent / 10
    block = {"value": 0.03, "budget": budget}
    metrics = night(tmp_path / "b", few, {"candidate": 1.0, "baseline": 0.5}, replay=block).replay()
    paced = metrics.metrics["bidders"]["candidate"]
    assert 0.85 * budget < paced["spend"] <= budget
    by_hour = np.array(paced["spend_by_hour"])
    # With bids of full value, the first two hours would take the whole budget.
    assert 0.3 < by_hour[:12].sum() / by_hour.sum() < 0.7
    assert by_hour.max() < 0.25 * budget


def test_shaded_bids_earn_surplus_in_first_price_auctions(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    block = {"value": 0.03, "pricing": "first"}
    stages = night(tmp_path, days, {"candidate": 1.0, "baseline": 0.5}, replay=block)
    bidders = stages.replay().metrics["bidders"]
    # Truthful bids earn nothing in first price: each pays its value.
    assert bidders["candidate"]["expected_surplus"] > bidders["baseline"]["expected_surplus"] > 0


def test_rows_with_bad_prices_are_dropped_and_counted(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    prices = days[NEWEST]["win_price"].to_numpy().copy()
    prices[:3], prices[5] = np.nan, -1
    spoiled = {**days, NEWEST: changed(days[NEWEST], "win_price", prices)}
    stages = night(tmp_path, spoiled, {"candidate": 1.0, "baseline": 1.0})
    outcome = stages.replay()
    assert outcome.metrics["unusable"] == {
        "win_price is missing or not finite": 3,
        "win_price is negative": 1,
    }
    assert (outcome.rows.read, outcome.rows.dropped) == (len(prices), 4)


def test_conversions_are_counted_and_other_currencies_are_dropped(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    columns = {**BLOCKS["columns"], "conversion": "conversion", "currency": "currency"}
    first = np.arange(len(days[NEWEST])) < 7
    marked = {
        BEFORE: days[BEFORE].append_column("currency", pa.array(["USD"] * len(days[BEFORE]))),
        NEWEST: days[NEWEST].append_column("currency", pa.array(np.where(first, "EUR", "USD"))),
    }
    stages = night(tmp_path / "7", marked, {"candidate": 1.0, "baseline": 1.0}, columns=columns)
    outcome = stages.replay()
    assert outcome.metrics["unusable"] == {"currency is not 'USD', the usual one": 7}
    won = pq.read_table(tmp_path / "7" / "out" / "auctions.parquet")
    everything = won["conversion"].to_numpy().sum()
    assert everything == days[NEWEST]["conversion"].to_numpy()[~first].sum()
    assert 0 < outcome.metrics["bidders"]["candidate"]["conversions"] <= everything

    marked[NEWEST] = days[NEWEST].append_column("currency", pa.array(["EUR"] * len(first)))
    stages = night(tmp_path / "all", marked, {"candidate": 1.0, "baseline": 1.0}, columns=columns)
    with pytest.raises(CorruptDataError, match=r"currency is not 'USD', the usual one \(\d"):
        stages.replay()
    assert not list((tmp_path / "all" / "out").iterdir())


EVERY_BID = {**BLOCKS["columns"], "competing": "competing_bids"}


def test_competing_bids_make_the_replay_exact_under_another_floor(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    # The revenue of each auction under a floor of 3 USD, computed from the bids.
    rows = days[NEWEST]
    highest = np.array([max(competing) for competing in rows["competing_bids"].to_pylist()])
    bids = 1000 * 0.03 * rows[TRUTH].to_numpy()
    won = (bids > highest) & (bids >= 3)
    factors = {"candidate": 1.0, "baseline": 0.7}
    exact = night(
        tmp_path / "exact", days, factors, columns=EVERY_BID, replay={"value": 0.03, "floor": 3}
    ).replay()
    candidate = exact.metrics["bidders"]["candidate"]
    assert candidate["impressions"] == won.sum()
    assert candidate["spend"] == pytest.approx(np.maximum(highest, 3)[won].sum() / 1000)

    # Under the logged floors, the competing bids and the logged prices give the same result.
    alike = [
        night(tmp_path / str(index), days, factors, columns=columns).replay().metrics["bidders"]
        for index, columns in enumerate((EVERY_BID, BLOCKS["columns"]))
    ]
    assert alike[0]["candidate"]["spend"] == pytest.approx(alike[1]["candidate"]["spend"], rel=1e-3)


def test_prices_that_are_not_the_highest_competing_bid_are_counted(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    prices = days[NEWEST]["win_price"].to_numpy().copy()
    prices[:5] *= 0.9
    spoiled = {**days, NEWEST: changed(days[NEWEST], "win_price", prices)}
    stages = night(tmp_path, spoiled, {"candidate": 1.0, "baseline": 1.0}, columns=EVERY_BID)
    assert stages.replay().metrics["unusable"] == {
        "win_price is neither the highest of competing_bids nor the floor": 5
    }
    stages = night(tmp_path / "no_lists", days, {"candidate": 1.0, "baseline": 1.0},
                columns={**EVERY_BID, "competing": "floor_price"})  # fmt: skip
    with pytest.raises(CorruptDataError, match="it holds double, not lists of bids"):
        stages.replay()


def spoil_unit(table: pa.Table) -> pa.Table:
    return changed(table, "win_price", table["win_price"].to_numpy() / 1000)


def spoil_prices(table: pa.Table) -> pa.Table:
    return changed(table, "win_price", np.full(len(table), np.nan))


def spoil_bids(table: pa.Table) -> pa.Table:
    return changed(table, "bid", table["floor_price"].to_numpy() / 2)


def spoil_clicks(table: pa.Table) -> pa.Table:
    clicked = np.ones(len(table), np.float32)
    price = table["bid"].to_numpy() + 1
    return changed(changed(table, LABEL, clicked), "win_price", price)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_unit, "the median price is"),
        (spoil_prices, "win_price is missing or not finite"),
        (spoil_bids, "bid is below floor_price"),
        (spoil_clicks, "label is 1 but bid is below win_price"),
        (lambda table: table.drop_columns(["win_price"]), "there is no column 'win_price'"),
        (lambda table: table.slice(0, 0), "there are no evaluate rows with prices"),
    ],
)
def test_bad_logs_stop_the_stage_in_one_line_and_write_nothing(
    tmp_path: Path, days: dict[date, pa.Table], spoil: Any, message: str
) -> None:
    spoiled = {**days, NEWEST: spoil(days[NEWEST])}
    stages = night(tmp_path, spoiled, {"candidate": 1.0, "baseline": 1.0})
    with pytest.raises((CorruptDataError, MissingDataError)) as caught:
        stages.replay()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_predictions_outside_0_to_1_are_rejected(
    tmp_path: Path, days: dict[date, pa.Table]
) -> None:
    stages = night(tmp_path, days, {"candidate": -1.0, "baseline": 1.0})
    with pytest.raises(NightbidError, match="values of candidate are not within"):
        stages.replay()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"columns": {}}, "replay needs columns.price"),
        ({"replay": {"value": 1, "floor": 1}}, "replay.floor needs columns.competing"),
        ({"source": {"kind": "simulator", "exploration": 1}}, "source.exploration picks them"),
        ({"replay": {"value": 0}}, "greater than 0"),
        ({"columns": {**BLOCKS["columns"], "conversion": "site_id"}}, "is columns.conversion"),
        ({"replay": {"value": 1, "budget": 0}}, "greater than 0"),
        ({"evaluate": {"keep_scores": False}}, "replay needs evaluate.keep_scores"),
        ({"label": {"column": "conversion", "given": "click"}}, "replay needs every impression"),
    ],
)
def test_replay_settings_that_cannot_work_are_rejected(
    blocks: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        spec_of(**blocks)
