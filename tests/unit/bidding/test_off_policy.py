"""The `policy` block turns scores into choices; wrong settings are refused before scoring."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.bidding import stage as replay_stage
from nightbid.bidding.candidates import Offers, belonging
from nightbid.bidding.off_policy import probabilities
from nightbid.cli.bids import app
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.config.policy import Policy
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError, NightbidError
from nightbid.gates import value as gate_value
from nightbid.night.manifest import Manifest
from nightbid.night.task import StageInput, StageTask
from nightbid.schema import KEY, LABEL, TIME, USER
from nightbid.storage.workspace import Workspace
from pydantic import ValidationError
from typer.testing import CliRunner
from upath import UPath

DAY = date(2026, 1, 12)
BLOCKS: dict[str, Any] = {
    "pipeline": "t",
    "features": {"ad_category": "vocabulary"},
    "columns": {"propensity": "propensity", "candidates": "candidates"},
    "policy": {},
}


def test_policy_probabilities_sum_to_1_and_prefer_higher_scores() -> None:
    item = pa.chunked_array([["a", "b", "a"]])
    offers = Offers.of(item, pa.chunked_array([[["a", "b"], ["b"], ["c", "a", "a"]]]))
    scores = np.array([0.2, 0.1, 0.5, 0.1, 0.3, 0.3])
    soft = probabilities(offers, scores, Policy(temperature=1))
    np.testing.assert_allclose(offers.sums(soft), 1)
    # Choices are proportional to the odds: .25 and 1/9.
    assert soft[0] / soft[1] == pytest.approx((0.2 / 0.8) / (0.1 / 0.9))
    assert offers.sums(soft * offers.is_logged)[2] == pytest.approx(2 * soft[4])
    greedy = probabilities(offers, scores, Policy(kind="greedy", epsilon=0.3))
    np.testing.assert_allclose(greedy, [0.85, 0.15, 1.0, 0.1, 0.45, 0.45])


def test_item_columns_are_inferred_or_requested_when_rows_are_too_few() -> None:
    rng = np.random.default_rng(0)
    item = rng.integers(0, 20, 400)
    table = pa.table(
        {
            "item": [f"i{number}" for number in item],
            "brand": item // 3,
            "age": pa.array(item * 1.5, mask=item == 3),
            "site": rng.integers(0, 5, 400),
        }
    )
    day = np.zeros(400, np.int64)
    assert belonging(table, "item", day, ("brand", "age", "site")) == ("brand", "age")
    with pytest.raises(ConfigError, match=r"too few to tell .* name them in policy.item_columns"):
        belonging(table.slice(0, 5), "item", day[:5], ("brand",))


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    logs = SimulatorLogs(SimulatorSource(rows_per_day=500, exploration=1.0))
    table = pa.Table.from_batches(list(logs.batches(DAY)))
    for name, column in {
        KEY: table["impression_id"].cast(pa.int64()),
        LABEL: table["click"].cast(pa.float32()),
        TIME: table["time"],
        USER: pa.array(np.arange(len(table))),
    }.items():
        table = table.append_column(name, column)
    return table


def task_of(folder: Path, rows: pa.Table, metrics: dict[str, Any] | None = None) -> StageTask:
    path = folder / "sample" / "split=evaluate" / f"dt={DAY}" / "part-00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)
    spec = PipelineSpec.model_validate(BLOCKS)

    def stage(name: str) -> StageInput:
        manifest = Manifest(
            pipeline="t", run_id="r", stage=name, night=str(DAY), key="", digest="", inputs={},
            spec_digest="", code_digest="", versions={}, seed=0, metrics=metrics or {},
            created=datetime(2026, 1, 13, tzinfo=UTC),
        )  # fmt: skip
        return StageInput(manifest, UPath(folder / name))

    (folder / "out").mkdir(exist_ok=True)
    return StageTask(
        spec=spec, night=Night.of(spec, DAY), run_id="r",
        inputs={name: stage(name) for name in ("sample", "replay")}, history=(),
        output=folder / "out", workspace=Workspace(str(folder)), cache=folder,
    )  # fmt: skip


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: replaced(t, "propensity", np.zeros(len(t))), "propensity is 0 or less"),
        (lambda t: replaced(t, "propensity", np.full(len(t), 1.5)), "propensity is above 1"),
        (lambda t: replaced(t, "propensity", np.full(len(t), np.nan)), "propensity is missing"),
        (lambda t: replaced(t, "ad_id", ["?"] * len(t)), "ad_id is not among candidates"),
        (lambda t: replaced(t, "candidates", ["?"] * len(t)), "it holds string, not lists"),
        (lambda t: t.drop_columns(["propensity"]), "there is no column 'propensity'"),
        (lambda t: t.slice(0, 0), "there are no evaluate rows"),
    ],
)
def test_unusable_propensities_are_reported_in_one_line(
    tmp_path: Path, rows: pa.Table, spoil: Any, message: str
) -> None:
    task = task_of(tmp_path, spoil(rows))
    with pytest.raises((CorruptDataError, MissingDataError)) as caught:
        replay_stage.run(task)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(task.output.iterdir())


def test_the_gate_warns_of_a_policy_loss_and_passes_without_an_estimate(
    tmp_path: Path, rows: pa.Table
) -> None:
    candidate: dict[str, Any] = {
        "estimates": {"dr": {"value": 0.03}}, "gains": {"dr": {"high": -0.01}},
        "effective_sample_size": 900.0,
    }  # fmt: skip
    metrics = {"logged": {"value": 0.05}, "rows": 6000, "policies": {"candidate": candidate}}
    judged = gate_value.measure(task_of(tmp_path, rows, {"replayed": False, "policy": metrics}))
    assert judged.verdict == "warn"
    assert "policy_loss is 0.2" in judged.summary
    metrics["policies"] = {"candidate": {"refused": "the policies overlap too little"}}
    judged = gate_value.measure(task_of(tmp_path, rows, {"replayed": False, "policy": metrics}))
    assert judged.verdict == "pass"


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"columns": {}}, "policy needs columns.propensity"),
        ({"columns": {**BLOCKS["columns"], "item": None}}, "policy needs columns.item"),
        ({"label": {"column": "conversion", "given": "click"}}, "policy needs every impression"),
        ({"policy": {"temperature": 0}}, "greater than 0"),
        ({"features": {"propensity": "numeric"}}, "which is columns.propensity"),
    ],
)
def test_policy_settings_that_cannot_work_are_rejected(
    blocks: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        PipelineSpec.model_validate({**BLOCKS, **blocks})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": 0.0}, "propensities are 0"),
        ({"propensity": 1.5}, "values of the logged propensity are not within 0..1"),
        ({"mine": -0.1}, "values of the candidate's probability are not within 0..1"),
        ({"mine": 1e-9}, "the policies overlap too little"),
        ({"click": "yes"}, "values of click cannot be read as numbers"),
        ({"mine_predicted": 0.1}, "only one of the two predictions"),
    ],
)
def test_the_policy_command_reports_bad_logs_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    frame = pd.DataFrame({"click": [0, 1] * 200, "propensity": 0.5, "mine": 0.4}).assign(**change)
    frame.to_csv(tmp_path / "log.csv", index=False)
    done = CliRunner().invoke(app, ["policy", str(tmp_path / "log.csv"), "--policy", "mine"])
    assert isinstance(done.exception, NightbidError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not done.stdout
