"""`nightbid shadow` compares both models by the shadow log and the day's rows."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.cli.app import app
from typer.testing import CliRunner


def ask(*given: object):
    return CliRunner().invoke(app, ["shadow", *map(str, given)])


@pytest.fixture
def log(tmp_path):
    lines = [
        {"champion": 3, "shadow": "abc", "keys": {"request": [at, at], "ad": ["a", "b"]},
         "probabilities": {"champion": [0.5, 0.25], "shadow": [0.9, 0.1]}}
        for at in range(10)
    ]  # fmt: skip
    path = tmp_path / "shadow.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"champ')
    return path


def test_champion_and_shadow_are_compared_on_rows_with_outcomes(log, tmp_path):
    rows = {"request": np.arange(10), "ad": ["a"] * 10, "click": [1, 0] * 4 + [None, 1]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    outcome = ask(log, tmp_path / "rows.parquet", "--label", "click", "--json")
    (one,) = json.loads(outcome.output)
    assert (one["rows"], one["without_outcome"]) == (9, 11)
    assert one["observed"] == pytest.approx(5 / 9)
    assert one["of_champion"]["log_loss"] == pytest.approx(np.log(2))
    assert one["of_shadow"]["ratio"] == pytest.approx(0.9 * 9 / 5)
    assert (
        "predicted / observed 1.620"
        in ask(log, tmp_path / "rows.parquet", "--label", "click").output
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"request": [77], "ad": ["a"], "click": [1]}, "none of the scored rows has an outcome"),
        ({"request": [1], "click": [1]}, "column 'ad' is missing"),
        ({"request": [1], "ad": ["a"], "click": ["x"]}, "not Parquet with a label of numbers"),
    ],
)
def test_outcome_files_without_usable_rows_are_rejected(log, tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    outcome = ask(log, tmp_path / "rows.parquet", "--label", "click")
    assert outcome.exit_code
    assert message in str(outcome.exception) + outcome.output


def test_a_shadow_log_without_keys_is_rejected_with_the_option_to_set(tmp_path):
    (tmp_path / "log").write_text('{"champion": 3, "shadow": "abc"}\n')
    outcome = ask(tmp_path / "log", tmp_path, "--label", "click")
    assert "--shadow-key" in str(outcome.exception) + outcome.output
