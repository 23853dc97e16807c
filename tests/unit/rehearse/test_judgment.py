"""Rehearsal statistics: equivalence tests, row differences and delta debugging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.errors import BudgetExceeded
from nightbid.rehearse.bisect import BisectOutcome, smallest
from nightbid.rehearse.equivalence import ratio, tost
from nightbid.rehearse.locks import PinChange
from nightbid.rehearse.tables import compare_files, compare_predictions

PACKAGES = [PinChange(f"p{at}", "==1", "==2") for at in range(12)]


@settings(max_examples=60)
@given(st.sets(st.integers(0, 11), min_size=1, max_size=3))
def test_delta_debugging_finds_the_smallest_set_of_packages(causes: set[int]) -> None:
    expected = {f"p{at}" for at in causes}

    def judge(part: tuple[PinChange, ...]) -> BisectOutcome:
        return "reproduced" if expected <= {change.name for change in part} else "absent"

    smallest_set, steps, reason = smallest(PACKAGES, judge)
    assert {change.name for change in smallest_set} == expected
    assert not reason
    assert steps < 60


def test_unresolved_mixtures_are_no_cause_and_a_spent_budget_keeps_results() -> None:
    # p2 does not start without p3, and p3 is the cause.
    def judge(part: tuple[PinChange, ...]) -> BisectOutcome:
        names = {change.name for change in part}
        if "p2" in names and "p3" not in names:
            return "unresolved"
        return "reproduced" if "p3" in names else "absent"

    assert smallest(PACKAGES[:6], judge)[0] == (PACKAGES[3],)
    tried: list[object] = []

    def costly(part: tuple[PinChange, ...]) -> BisectOutcome:
        if len(tried) == 2:
            raise BudgetExceeded("1 USD of 1 USD are spent")
        tried.append(part)
        return judge(part)

    causes, steps, reason = smallest(PACKAGES[:6], costly)
    assert PACKAGES[3] in causes
    assert len(causes) < 6
    assert (steps, reason) == (2, "1 USD of 1 USD are spent")


def test_tost_reports_equivalent_different_or_undecided() -> None:
    before = [0.90, 0.91, 0.905, 0.902, 0.908]
    # Intervals by hand: mean 0.0002, standard error 0.0000316, t(0.95, 4) = 2.132.
    moved = [1e-4, 3e-4, 2e-4, 2e-4, 2e-4]
    near = tost(before, [b + d for b, d in zip(before, moved, strict=True)], 0.001)
    assert (near.low, near.high) == pytest.approx((0.0001326, 0.0002674), abs=1e-6)
    assert near.equivalent
    assert near.different
    assert near.p < 0.05
    far = tost(before, [value + 0.01 for value in before], 0.001)
    assert not far.equivalent
    assert far.p == 1
    open_ = tost(before, [0.91, 0.90, 0.912, 0.899, 0.909], 0.001)
    assert not open_.equivalent
    assert not open_.different
    same = tost(before, before, 0.001)
    assert same.equivalent
    assert (same.mean, same.p) == (0, 0)


def test_ratio_has_no_interval_when_seeds_vary_too_much() -> None:
    estimate = ratio([1.0, 1.1, 0.9], [2.0, 2.2, 1.8], compared=10)
    assert estimate is not None
    assert (estimate.ratio, estimate.low, estimate.high) == pytest.approx((2, 2, 2))
    noisy = ratio([1.0, 1.1, 0.9], [2.0, 1.0, 1.4], compared=10)
    assert noisy is not None
    assert noisy.low is None
    assert ratio([0.0], [1.0], compared=1) is None


def test_differences_name_column_rows_and_distance(tmp_path: Path) -> None:
    rows = {
        "nb_key": pa.array([7, 8, 9]),
        "id": pa.array([1, 2, 3], pa.int32()),
        "age": pa.array([0.5, 1.0, None], pa.float32()),
        "tags": pa.array([[1], [2, 3], []], pa.list_(pa.int32())),
        "same": pa.array(["a", "b", "c"]),
    }
    changed = {
        **rows,
        "id": pa.array([1, 5, 3], pa.int32()),
        "age": pa.array([0.5, 1.0000001, None], pa.float32()),
        "tags": pa.array([[1], [2, 4], []], pa.list_(pa.int32())),
        # This column has other bytes but the same values.
        "same": pa.array(["a", "b", "c"]).dictionary_encode(),
    }
    for name, columns in (("before", rows), ("after", changed)):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "part.parquet")
    differences = {
        difference.column: difference
        for difference in compare_files(tmp_path / "before", tmp_path / "after", ["part.parquet"])
    }
    assert set(differences) == {"id", "age", "tags"}
    assert (differences["id"].rows, differences["id"].of_rows, differences["id"].largest) == (
        1,
        3,
        3,
    )
    assert differences["id"].examples == ("row 8: 2.0 → 5.0",)
    assert differences["age"].is_float
    assert 0 < differences["age"].relative < 1e-6
    assert (differences["tags"].rows, differences["tags"].examples) == (1, ("row 8: 3.0 → 4.0",))


def test_rankings_change_only_when_the_order_of_scores_changes() -> None:
    users = np.array([1, 1, 2, 2, 3])
    before = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    comparison = compare_predictions(before, np.array([0.15, 0.2, 0.5, 0.4, 0.4]), users)
    assert (
        comparison.rows,
        comparison.changed,
        comparison.rankings,
        comparison.rankings_changed,
    ) == (5, 3, 2, 1)
    assert comparison.largest == pytest.approx(0.2)
