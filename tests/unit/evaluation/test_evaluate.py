"""A complete evaluation of synthetic rows: the manifest's metrics, slices and saved scores."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.errors import ConfigError
from nightbid.evaluation.rows import EarlierChampion, EvaluationRows
from nightbid.evaluation.slices import MISSING, OTHER, slices_of
from nightbid.evaluation.stage import evaluate
from nightbid.evaluation.verdict import by_propensity, explain, with_position


def night(
    *, rows: int = 3000, champion: bool = True, noise: float = 1.0, rare: bool = True
) -> EvaluationRows:
    random = np.random.default_rng(0)
    users = random.integers(0, 300, rows)
    signal = random.normal(0, 1, rows)
    truth = 1 / (1 + np.exp(2 - 1.5 * signal))
    labels = (random.random(rows) < truth).astype(float)
    platform = random.choice(["ios", "android", "web"], rows).astype(object)
    if rare:
        platform[:5], labels[:5] = "fridge", 0.0
    blurred = 1 / (1 + np.exp(2 - 1.5 * signal + noise * random.normal(0, 1, rows)))
    base = np.full(rows, labels.mean()) * np.exp(0.1 * random.normal(0, 1, rows))
    scores = {"candidate": truth, "baseline": base}
    if champion:
        scores["champion"] = blurred
    return EvaluationRows(
        keys=np.arange(rows),
        labels=labels,
        weights=np.where(labels == 1, 1.0, 2.0),
        users=users,
        days=np.full(rows, 20_000),
        truth=truth,
        slices=pa.table({"platform": pa.array(platform, pa.string())}),
        scores=scores,
    )


def evaluate_rows(rows: EvaluationRows, **changes):
    settings = {"base_rate": 0.1, "replicates": 50, "margin": 0.002, "ndcg_k": 10,
                "slices": ("platform",), "slice_values": 10, "seed": 0}  # fmt: skip
    return evaluate(rows, **(settings | changes))


def test_a_candidate_that_predicts_the_truth_beats_the_champion():
    metrics = evaluate_rows(night())
    assert (metrics["verdict"], metrics["reference"]) == ("better", "champion")
    assert metrics["difference"]["normalized_entropy"]["high"] < 0
    assert metrics["difference"]["auc"]["low"] > 0
    assert metrics["rows"] == 3000
    assert metrics["users"] <= 300
    # The candidate is the truth itself, so it is the oracle.
    assert metrics["candidate"]["log_loss"] == metrics["oracle"]["log_loss"]
    assert metrics["constant"]["auc"] == 0.5
    levels = metrics["intervals"]["auc"]
    assert levels["low"] < metrics["candidate"]["auc"] < levels["high"]
    assert set(metrics["curves"]) == {"candidate", "champion", "baseline"}
    json.dumps(metrics, allow_nan=False)


def test_the_first_night_is_compared_with_the_baseline():
    metrics = evaluate_rows(night(champion=False))
    assert metrics["reference"] == "baseline"
    assert metrics["champion"] is None


def test_a_candidate_equal_to_the_champion_is_neutral():
    rows = night()
    same = EvaluationRows(
        **{**vars(rows), "scores": {**rows.scores, "champion": rows.scores["candidate"]}}
    )
    metrics = evaluate_rows(same)
    assert metrics["verdict"] == "neutral"
    assert metrics["difference"]["normalized_entropy"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_neutral_candidate_that_lost_to_a_recent_champion_is_undecided():
    """Several small losses in a row cannot exceed the margin together."""
    rows = night(noise=0.6)
    slid = {**rows.scores, "candidate": rows.scores["champion"]}
    best = EarlierChampion(number=3, night="2026-01-02", scores=rows.truth)
    worst = EarlierChampion(number=2, night="2026-01-01", scores=rows.scores["baseline"])
    alone = evaluate_rows(EvaluationRows(**{**vars(rows), "scores": slid}))
    assert (alone["verdict"], alone["ratchet"]) == ("neutral", None)
    metrics = evaluate_rows(
        EvaluationRows(**{**vars(rows), "scores": slid, "earlier": (worst, best)})
    )
    assert metrics["verdict"] == "undecided"
    assert (metrics["ratchet"]["number"], metrics["ratchet"]["verdict"]) == (3, "worse")
    assert "worse than the best recent champion #3 of 2026-01-02: NE +" in explain(metrics)
    # A past champion that is worse than the current one on these rows is no reference.
    assert (
        evaluate_rows(EvaluationRows(**{**vars(rows), "scores": slid, "earlier": (worst,)}))[
            "ratchet"
        ]
        is None
    )
    # A candidate that improves on the current champion is still promoted.
    better = {**rows.scores, "champion": rows.scores["baseline"]}
    metrics = evaluate_rows(EvaluationRows(**{**vars(rows), "scores": better, "earlier": (best,)}))
    assert metrics["verdict"] == "better"


def test_metrics_with_the_logged_position_are_reported_too():
    rows = night()
    blind = {**rows.scores, "candidate": rows.scores["baseline"]}
    metrics = evaluate_rows(
        EvaluationRows(**{**vars(rows), "scores": blind, "as_logged": rows.truth})
    )
    assert metrics["as_logged"]["log_loss"] == metrics["oracle"]["log_loss"]
    assert metrics["candidate"]["auc"] < 0.6
    assert f"with the logged position AUC {metrics['oracle']['auc']:.4f}" in (
        with_position(metrics)
    )
    assert evaluate_rows(rows)["as_logged"] is None


def test_inverse_propensities_correct_for_uneven_exposure():
    rows = night()
    # Items that are likely to be clicked were shown five times as often.
    propensity = np.where(rows.truth > np.median(rows.truth), 0.9, 0.18)
    shown = np.random.default_rng(2).random(len(rows)) < propensity
    logged = EvaluationRows(
        **{
            **{name: column[shown] if isinstance(column, np.ndarray) else column
               for name, column in vars(rows).items()},
            "scores": {name: scores[shown] for name, scores in rows.scores.items()},
            "slices": rows.slices.filter(pa.array(shown)),
            "propensity": np.where(np.arange(shown.sum()) < 3, np.nan, propensity[shown]),
        }
    )  # fmt: skip
    metrics, whole = evaluate_rows(logged), evaluate_rows(rows)
    weighted = metrics["by_propensity"]
    assert (weighted["unknown"], weighted["rows"]) == (3, shown.sum() - 3)
    assert weighted["effective_rows"] < weighted["rows"]
    unbiased, biased = whole["candidate"]["auc"], metrics["candidate"]["auc"]
    assert abs(weighted["candidate"]["auc"] - unbiased) < 0.4 * abs(biased - unbiased)
    assert weighted["difference"]["auc"]["low"] < weighted["difference"]["auc"]["high"]
    assert f"by inverse propensities AUC {weighted['candidate']['auc']:.4f} (" in by_propensity(
        metrics
    )
    assert whole["by_propensity"] is None
    json.dumps(metrics, allow_nan=False)


def test_a_random_candidate_is_worse():
    rows = night()
    swapped = {**rows.scores, "candidate": rows.scores["baseline"][::-1].copy()}
    assert evaluate_rows(EvaluationRows(**{**vars(rows), "scores": swapped}))["verdict"] == "worse"


def test_undefined_metrics_of_a_one_class_slice_are_none():
    slices = {row["value"]: row for row in evaluate_rows(night())["slices"]}
    assert set(slices) == {"ios", "android", "web", "fridge"}
    fridge = slices["fridge"]
    assert fridge["rows"] == 5
    assert fridge["positives"] == 0
    assert fridge["candidate"]["auc"] is None
    assert fridge["difference"]["auc"] == {"value": None, "low": None, "high": None}
    assert fridge["candidate"]["log_loss"] > 0
    for value in ("ios", "android", "web"):
        assert slices[value]["difference"]["normalized_entropy"]["high"] < 0
    assert sum(row["rows"] for row in slices.values()) == 3000


@pytest.mark.parametrize("rows", [1, 2])
def test_one_or_two_rows_can_be_evaluated(rows):
    few = night(rows=rows, rare=False)
    metrics = evaluate_rows(few)
    assert metrics["rows"] == rows
    json.dumps(metrics, allow_nan=False)


def test_intervals_are_none_without_bootstrap_replicates():
    metrics = evaluate_rows(night(), replicates=0)
    assert metrics["difference"]["auc"]["low"] is None
    assert metrics["verdict"] == "better"


def test_equal_nights_give_identical_metrics():
    one, other = (json.dumps(evaluate_rows(night()), sort_keys=True) for _ in range(2))
    assert one == other


def test_scores_are_saved_and_the_digest_identifies_their_rows(tmp_path):
    rows = night()
    rows.save_scores(tmp_path / "scores" / "part-00000.parquet")
    saved = pq.read_table(tmp_path / "scores" / "part-00000.parquet")
    np.testing.assert_allclose(saved["champion"], rows.scores["champion"], rtol=1e-6)
    relabeled = EvaluationRows(**{**vars(rows), "labels": 1 - rows.labels})
    assert rows.digest == night(noise=0.3).digest, "other scores, the same rows"
    assert rows.digest != relabeled.digest


def slice_sizes(column: pa.Array, most: int = 3) -> dict[str, int]:
    table = pa.table({"c": column})
    return {part.value: int(part.rows.sum()) for part in slices_of(table, ("c",), most)}


def test_slices_are_the_most_frequent_values_and_the_rest():
    values = ["a"] * 5 + ["b"] * 4 + ["c"] * 4 + ["d"] * 2 + ["e"] + [None] * 3
    expected = {"a": 5, "b": 4, "c": 4, OTHER: 6}
    assert slice_sizes(pa.array(values)) == expected
    assert slice_sizes(pa.array(values).dictionary_encode()) == expected
    assert list(slice_sizes(pa.array(values[::-1]))) == list(expected), (
        "the order of rows is nothing"
    )


def test_numeric_slices_are_quintiles():
    random = np.random.default_rng(0)
    values = [*random.lognormal(size=1000).tolist(), math.nan, None]
    counts = slice_sizes(pa.array(values))
    assert len(counts) == 6
    assert counts.pop(MISSING) == 2
    assert set(counts.values()) == {200}


def test_few_distinct_numbers_are_slices_of_their_own():
    assert slice_sizes(pa.array([1, 2, 2, 3] * 10), most=5) == {"2": 20, "1": 10, "3": 10}
    assert slice_sizes(pa.array([True, False, None])) == {"(missing)": 1, "false": 1, "true": 1}


def test_a_missing_or_list_column_is_rejected_as_slice():
    table = pa.table({"platform": ["ios"], "tags": [["a"]]})
    with pytest.raises(ConfigError, match=r"'platfrom'.*did you mean 'platform'"):
        list(slices_of(table, ("platfrom",), 3))
    with pytest.raises(ConfigError, match="holds list"):
        list(slices_of(table, ("tags",), 3))
