"""Compares runs: figures, paired differences on the same rows, the spec and the cost."""

from __future__ import annotations

import io

import numpy as np
import pytest
from nightbid.cli.compare import compare_runs
from nightbid.errors import ConfigError
from nightbid.report.comparison import RunComparison, changed_keys, flat
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score

ROWS = 4000


@pytest.fixture
def scores():
    """Return a function that draws the scores of a model that sees a share of the truth."""
    random = np.random.default_rng(0)
    signal, noise = random.normal(size=(2, ROWS))
    truth = 1 / (1 + np.exp(1.5 - signal))
    labels = (random.random(ROWS) < truth).astype(np.float32)

    def make(seen: float, label=labels):
        return {
            "nb_key": np.arange(ROWS),
            "nb_user": np.arange(ROWS) % 500,
            "nb_label": label,
            "nb_weight": np.ones(ROWS, np.float32),
            "candidate": (1 / (1 + np.exp(1.5 - seen * signal - (1 - seen) * noise))).astype("f4"),
        }

    return make


def text(runs, width=200) -> str:
    console = Console(width=width, file=io.StringIO(), record=True, markup=False)
    console.print(compare_runs(runs))
    return console.export_text()


def test_runs_on_the_same_rows_have_paired_differences(recorded_run, scores):
    weak, strong = scores(0.5), scores(0.9)
    runs = [
        recorded_run("plain", scores=weak),
        recorded_run("deeper", scores=strong, model={"architecture": "dcn_v2"}),
    ]
    (pair,) = RunComparison.of(runs).pairs
    labels = weak["nb_label"]
    expected = roc_auc_score(labels, strong["candidate"]) - roc_auc_score(labels, weak["candidate"])
    assert pair.differences["auc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert 0 < pair.differences["auc"]["low"] < expected < pair.differences["auc"]["high"]
    expected = log_loss(labels, strong["candidate"]) - log_loss(labels, weak["candidate"])
    assert pair.differences["log_loss"]["value"] == pytest.approx(expected, abs=1e-6)
    output = text(runs)
    assert "0.7312 [0.7202, 0.7422]" in output
    assert "minus plain" in output
    assert f"{pair.differences['auc']['value']:+.5f}" in output
    assert "0.0208 USD" in output


def test_equal_scores_have_zero_differences(recorded_run, scores):
    runs = [recorded_run("one", scores=scores(0.7)), recorded_run("two", scores=scores(0.7))]
    (pair,) = RunComparison.of(runs).pairs
    for difference in pair.differences.values():
        assert difference == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "The settings are the same." in text(runs)


def test_the_comparison_says_why_runs_cannot_be_paired(recorded_run, scores):
    first = recorded_run("first", scores=scores(0.7))
    manifest = first.workspace.at(first.stage("evaluate").uri) / "manifest.json"
    metrics = {"evaluate": {**RunComparison.of([first, recorded_run("x")]).views[0].evaluation}}
    assert "rows-1" in manifest.read_text()
    other_rows = metrics["evaluate"] | {"rows_digest": "rows-2"}
    flipped = scores(0.7, 1 - scores(0.7)["nb_label"])
    runs = [
        first,
        recorded_run("unkept"),
        recorded_run("other", metrics={"evaluate": other_rows}, scores=scores(0.7)),
        recorded_run("halted", until="train", error="out of memory"),
        recorded_run("tampered", scores=flipped),
    ]
    reasons = [pair.why_not for pair in RunComparison.of(runs).pairs]
    assert reasons == [
        "this evaluation kept no scores",
        "evaluated on different rows than first",
        "halted was not evaluated",
        "4,000 and 4,000 rows, which are not the same",
    ]
    for line in reasons:
        assert line in text(runs)


def test_the_comparison_says_that_an_evaluation_was_deleted(recorded_run):
    runs = [recorded_run("first"), recorded_run("gone", seed=7)]
    (runs[1].workspace.at(runs[1].stage("evaluate").uri) / "manifest.json").unlink()
    (pair,) = RunComparison.of(runs).pairs
    assert pair.why_not == "gone has an evaluation whose output was deleted"


def test_the_comparison_lists_only_changed_settings(recorded_run):
    runs = [
        recorded_run("one"),
        recorded_run("two", sampling={"negative_rate": 0.25}, features={
            "platform": {"column": "platform"}, "ad": {"column": "ad_id"}}),
    ]  # fmt: skip
    changed = {row.key: row.values for row in RunComparison.of(runs).changed}
    assert changed["sampling.negative_rate"] == ("1.0", "0.25")
    assert changed["features.ad.column"] == (None, "ad_id")
    assert "pipeline" not in changed
    assert "sampling.negative_rate" in text(runs)
    assert dict(flat({"a": {"b": 1, "c": {}}, "d": [1, 2]})) == {
        "a.b": "1", "a.c": "{}", "d": "[1, 2]"}  # fmt: skip
    assert [row.key for row in changed_keys([{"a": {}}, {"a": {"b": 1}}])] == ["a.b"]


def test_names_are_not_truncated_on_a_narrow_terminal(recorded_run):
    runs = [recorded_run("one"), recorded_run("two", model={"parameters": {"cross_layers": 2}})]
    shown = "".join(line.strip(" │┃") for line in text(runs, width=60).splitlines())
    assert "…" not in shown


def test_code_digests_match_for_runs_that_ended_early(recorded_run):
    whole, halted = recorded_run("whole"), recorded_run("halted", until="train", error="killed")
    first, second = RunComparison.of([whole, halted]).codes
    assert first == second != ""
    changed = recorded_run("changed", until="train")
    path = changed.workspace.at(changed.stage("featurize").uri) / "manifest.json"
    path.write_text(path.read_text().replace("c" * 32, "d" * 32))
    first, second = RunComparison.of([whole, changed]).codes
    assert first != second
    begun = recorded_run("begun", until="sample", error="no rows")
    assert RunComparison.of([whole, begun]).codes == ("", "")


def test_comparing_one_run_is_rejected(recorded_run):
    run = recorded_run("one")
    with pytest.raises(ConfigError, match="two or more"):
        compare_runs([run, run])


def test_brackets_in_names_are_printed_literally(recorded_run):
    hostile = {"platform": {"column": "[red]x[/]"}}
    output = text([recorded_run("one"), recorded_run("two", features=hostile)])
    assert "[red]x[/]" in output
