"""Metrics of cases computed by hand, of merged parts, and where they are undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.errors import DataError
from nightbid.evaluation.metrics import (
    auc,
    calibration,
    calibration_curve,
    constant_scores,
    entropy,
    expected_calibration_error,
    label_rate,
    log_loss,
    normalized_entropy,
    pr_auc,
    summary,
)
from nightbid.evaluation.ranking_metrics import GroupedScores, grouped_auc, ndcg
from nightbid.evaluation.scores import ScoreTable

ROW = st.tuples(
    st.sampled_from([0.0, 1.0]),
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])),
    st.floats(0, 1000),
    st.integers(-3, 3),
)
PARTS = st.lists(st.lists(ROW, max_size=20), min_size=1, max_size=5)


def columns(rows):
    return tuple(np.array([row[at] for row in rows], np.float64) for at in range(4))


def assert_same_columns(one, other) -> None:
    for name in vars(one):
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, name


@settings(max_examples=100)
@given(PARTS, st.integers(2, 64), st.randoms())
def test_merged_score_tables_equal_the_whole_bit_for_bit(parts, limit, random):
    tables = []
    for part in parts:
        y, p, w, _ = columns(part)
        tables.append(ScoreTable.of(y, p, w, limit=limit))
    y, p, w, _ = columns([row for part in parts for row in part])
    whole = ScoreTable.of(y, p, w, limit=limit)
    random.shuffle(tables)
    while len(tables) > 1:
        tables.append(tables.pop(0).merge(tables.pop(0), limit=limit))
    assert_same_columns(tables[0], whole)
    assert summary(tables[0]) == summary(whole)


@settings(max_examples=50)
@given(PARTS)
def test_merged_grouped_scores_equal_the_whole(parts):
    merged = None
    for part in parts:
        y, p, _, g = columns(part)
        table = GroupedScores.of(g, y, p)  # unit weights: their sums are exact in any order
        merged = table if merged is None else merged.merge(table)
    y, p, _, g = columns([row for part in parts for row in part])
    whole = GroupedScores.of(g, y, p)
    assert_same_columns(merged, whole)
    for figure in (grouped_auc, lambda table: ndcg(table, 3)):
        of_parts, of_whole = figure(merged), figure(whole)
        assert of_parts == of_whole or (math.isnan(of_parts) and math.isnan(of_whole))


def test_metrics_match_hand_computed_values():
    # Scores 0.9+ 0.8- 0.6+ 0.6- 0.1-: of 2 x 3 pairs the positives win 3 + 1.5 + … = 4.5.
    table = ScoreTable.of([1, 0, 1, 0, 0], [0.9, 0.8, 0.6, 0.6, 0.1])
    assert auc(table) == pytest.approx((3 + 1.5) / 6)
    assert pr_auc(table) == pytest.approx(0.5 * 1 / 1 + 0.5 * 2 / 4)
    losses = -math.log(0.9) - math.log(0.2) - math.log(0.6) - math.log(0.4) - math.log(0.9)
    assert log_loss(table) == pytest.approx(losses / 5)
    rate = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    assert normalized_entropy(table) == pytest.approx(losses / 5 / rate)
    assert calibration(table) == pytest.approx(3.0 / 2)


def test_a_weight_counts_as_that_many_rows():
    y, p = np.array([1, 0, 0, 1, 0]), np.array([0.7, 0.2, 0.7, 0.3, 0.3])
    times = np.array([1, 3, 2, 1, 4])
    weighted = summary(ScoreTable.of(y, p, times))
    many = summary(ScoreTable.of(np.repeat(y, times), np.repeat(p, times)))
    for name, value in many.items():
        assert weighted[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


def test_constant_scores_have_normalized_entropy_1_and_auc_0_5():
    y = np.array([1, 0, 0, 0] * 25)
    table = ScoreTable.of(y, constant_scores(0.25, 100))
    assert normalized_entropy(table) == pytest.approx(1.0)
    assert auc(table) == 0.5
    assert calibration(table) == pytest.approx(1.0)
    assert entropy(0.0) == entropy(1.0) == 0.0


def test_weighted_negative_sampling_preserves_the_metrics():
    random = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-random.normal(-2, 1, 200_000)))
    y = (random.random(len(p)) < p).astype(float)
    sampled = (y == 1) | (random.random(len(p)) < 0.2)
    whole = ScoreTable.of(y, p)
    part = ScoreTable.of(y[sampled], p[sampled], np.where(y == 1, 1.0, 5.0)[sampled])
    assert label_rate(part) == pytest.approx(label_rate(whole), rel=0.01)
    assert calibration(part) == pytest.approx(1.0, abs=0.01)
    assert normalized_entropy(part) == pytest.approx(normalized_entropy(whole), abs=0.01)
    assert auc(part) == pytest.approx(auc(whole), abs=0.005)


def test_the_calibration_curve_shows_overprediction():
    random = np.random.default_rng(1)
    p = random.uniform(0.05, 0.4, 100_000)
    y = (random.random(len(p)) < p).astype(float)
    honest, boastful = ScoreTable.of(y, p), ScoreTable.of(y, np.minimum(p * 1.5, 1))
    assert expected_calibration_error(honest) < 0.01
    assert calibration(boastful) == pytest.approx(1.5, rel=0.03)
    # Mean of 0.5 p over uniform p.
    assert expected_calibration_error(boastful) == pytest.approx(0.5 * 0.225, abs=0.01)
    curve = calibration_curve(honest, 10)
    assert [round(point["weight"]) for point in curve] == [10_000] * 10
    assert all(abs(point["predicted"] - point["observed"]) < 0.02 for point in curve)
    assert sum(point["weight"] for point in curve) == pytest.approx(len(p))


def test_equal_scores_share_one_point_of_the_calibration_curve():
    curve = calibration_curve(ScoreTable.of([0, 1, 0, 1] * 10, [0.5] * 40), 20)
    assert curve == [{"predicted": 0.5, "observed": 0.5, "weight": 40.0}]


def test_gauc_matches_hand_computed_values():
    # User 1 is ranked right, 2 wrong, 3 tied; user 4 has no click and does not count.
    users = [1, 1, 2, 2, 2, 3, 3, 4, 4]
    labels = [1, 0, 1, 0, 0, 1, 0, 0, 0]
    scores = [0.9, 0.1, 0.1, 0.2, 0.3, 0.4, 0.4, 0.9, 0.8]
    assert grouped_auc(GroupedScores.of(users, labels, scores)) == pytest.approx(
        (2 * 1.0 + 3 * 0.0 + 2 * 0.5) / 7
    )


def test_ndcg_matches_hand_computed_values():
    first, second, third = 1.0, 1 / math.log2(3), 0.5
    # List 1: - + at places 1, 2. List 2: + + -. List 3: a tie of + and - for the first place.
    lists = [1, 1, 2, 2, 2, 3, 3]
    labels = [0, 1, 1, 1, 0, 1, 0]
    scores = [0.9, 0.8, 0.9, 0.8, 0.7, 0.5, 0.5]
    expected = (second / first + 1.0 + (first + second) / 2) / 3
    assert ndcg(GroupedScores.of(lists, labels, scores), 10) == pytest.approx(expected)
    # Only the first place counts: list 1 gets nothing, list 3 half.
    assert ndcg(GroupedScores.of(lists, labels, scores), 1) == pytest.approx((0 + 1 + 0.5) / 3)
    below = GroupedScores.of([1, 1, 1, 1], [0, 0, 1, 1], [0.9, 0.8, 0.7, 0.6])
    assert ndcg(below, 3) == pytest.approx(third / (first + second))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_metrics_that_need_both_classes_are_none_for_one_class(label):
    table = ScoreTable.of([label] * 3, [0.2, 0.4, 0.4])
    groups = GroupedScores.of([1, 1, 2], [label] * 3, [0.2, 0.4, 0.4])
    metrics = summary(table, grouped_auc(groups), ndcg(groups, 10))
    assert metrics["auc"] is None
    assert metrics["normalized_entropy"] is None
    assert metrics["gauc"] is None
    assert metrics["ndcg"] is None
    assert (metrics["calibration"] is None) == (label == 0)
    assert (metrics["pr_auc"] is None) == (label == 0)
    assert metrics["log_loss"] > 0


def test_metrics_of_no_rows_are_none():
    nothing = GroupedScores.of([], [], [])
    metrics = summary(ScoreTable.of([], []), grouped_auc(nothing), ndcg(nothing, 10))
    assert set(metrics.values()) == {None}
    assert calibration_curve(ScoreTable.of([], [])) == []


def test_calibration_is_none_when_a_tiny_weight_overflows():
    metrics = summary(ScoreTable.of([1, 0], [0.5, 0.5], [5e-324, 1.0]))
    assert metrics["calibration"] is None
    assert metrics["log_loss"] == pytest.approx(math.log(2))


def test_predictions_of_0_and_1_give_finite_metrics():
    metrics = summary(ScoreTable.of([1, 0, 0], [0.0, 1.0, 0.0]))
    assert metrics["log_loss"] == pytest.approx(-2 * math.log(np.finfo(float).eps) / 3)
    assert metrics["auc"] == pytest.approx(0.25)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.5, math.inf])
def test_invalid_probabilities_are_rejected_with_their_row(wrong):
    with pytest.raises(DataError, match=r"predicted .* for row 1"):
        ScoreTable.of([0, 1], [0.5, wrong])


@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan, 2.0**31])
def test_weights_that_cannot_be_summed_exactly_are_rejected(wrong):
    with pytest.raises(DataError, match="weights"):
        ScoreTable.of([0, 1], [0.5, 0.5], [1.0, wrong])
