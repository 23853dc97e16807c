"""Field calibration finds predictions that are right overall and wrong within values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from nightbid.evaluation.field_calibration import field_calibration
from nightbid.evaluation.slices import slices_of

ROWS = 200_000


@pytest.fixture(scope="module")
def rows() -> tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    site = draw.integers(0, 8, ROWS)
    truth = np.where(site < 4, 0.05, 0.1) * np.exp(0.3 * draw.normal(size=ROWS))
    labels = (draw.random(ROWS) < truth).astype(float)
    weights = np.where(labels == 1, 1.0, draw.choice([1.0, 3.0], ROWS))
    return pa.table({"site": pa.array(site).cast(pa.string())}), truth, labels, weights


def errors(rows, predicted: np.ndarray, weights: np.ndarray | None = None):
    table, _, labels, given = rows
    parts = list(slices_of(table, ("site",), 5))
    weights = np.ones(ROWS) if weights is None else given
    return field_calibration(parts, labels, weights, {"candidate": predicted})["candidate"][0]


def test_true_probabilities_have_no_field_error_beyond_chance(rows) -> None:
    metrics = errors(rows, rows[1])
    assert metrics["values"] == 6  # five sites and the others
    assert metrics["error"] < 2 * metrics["chance"]
    assert metrics["beyond_chance"] < 0.01


def test_opposite_errors_of_values_are_found(rows) -> None:
    table, truth, labels, _ = rows
    site = table["site"].to_numpy(zero_copy_only=False).astype(int)
    wrong = truth * np.where(site % 2 == 0, 1.2, 0.8)
    wrong *= labels.mean() / wrong.mean()
    metrics = errors(rows, wrong)
    # Sites are predicted 20% too high or 20% too low; three sites, odd and even, share one value.
    assert 0.1 < metrics["error"] < 0.22
    assert metrics["beyond_chance"] == pytest.approx(metrics["error"] - metrics["chance"])


@pytest.mark.slow
def test_chance_equals_the_mean_error_of_redrawn_labels(rows) -> None:
    table, truth, _, _ = rows
    parts = list(slices_of(table, ("site",), 5))
    draw = np.random.default_rng(1)
    redrawn = []
    for _ in range(60):
        labels = (draw.random(ROWS) < truth).astype(float)
        metrics = field_calibration(parts, labels, np.ones(ROWS), {"m": truth})["m"][0]
        redrawn.append((metrics["error"], metrics["chance"]))
    error, chance = np.mean(redrawn, axis=0)
    assert error == pytest.approx(chance, rel=0.1)


def test_field_calibration_is_empty_without_positives(rows) -> None:
    parts = list(slices_of(rows[0], ("site",), 5))
    assert field_calibration(parts, np.zeros(ROWS), np.ones(ROWS), {"m": rows[1]}) == {}
