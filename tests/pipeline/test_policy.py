"""Off-policy evaluation in nights from the shell: logs with propensities, known truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nightbid.night.record import RunRecord, runs_of
from nightbid.storage.workspace import Workspace

pytestmark = pytest.mark.slow


def replayed(run: RunRecord) -> Path:
    record = run.stage("replay")
    assert record is not None
    return Path(str(run.workspace.at(record.uri)))


def test_the_value_of_choosing_by_the_predictions_is_told_with_the_truth_within(shell):
    shell.write(
        source={
            "kind": "simulator", "rows_per_day": 6000, "users": 800, "ads": 200,
            "exploration": 1.0,
        },
        columns={
            "position": "position", "propensity": "propensity", "candidates": "candidates",
        },
        features={
            "ad_id": {"min_count": 3},
            "ad_category": "vocabulary",
            "page_category": "vocabulary",
            "ad_age_days": "numeric",
            "position": {"transform": "identity", "size": 8, "training_only": True},
        },
        model={"architecture": "gradient_boosted_trees"},
        baseline={"architecture": "gradient_boosted_trees"},
        train={},
        policy={"temperature": 0.5},
    )  # fmt: skip
    code, text = shell.run("run", "small", "--date", "2026-01-08", "--nights", "2")
    assert code == 0, text
    assert "against the logged choices)" in text
    first, second = runs_of(Workspace(str(shell.workspace)), "small")
    found = json.loads((replayed(second) / "manifest.json").read_text())["metrics"]["policy"]
    # Found without being told: an ad's category and age are its own, the page is not.
    assert sorted(found["item_columns"]) == ["ad_age_days", "ad_category"]
    assert list(found["policies"]) == ["candidate", "champion"]
    for each in found["policies"].values():
        for name in ("ips", "snips", "dr", "sndr"):
            estimate = each["estimates"][name]
            # Five standard errors, not two: this is one night.
            reach = 2.5 * (estimate["high"] - estimate["low"]) / 2
            assert abs(estimate["value"] - each["truth"]) < reach, name
        assert each["gains"]["dr"]["high"] > 0
    assert found["candidate_less_champion"]["low"] < found["candidate_less_champion"]["high"]
    page = (shell.workspace / "runs" / "small" / second.run_id / "report.html").read_text()
    assert 'id="policy-figures"' in page

    code, text = shell.run(
        "bids", "policy", str(replayed(second) / "policy.parquet"), "--user", "user",
        "--policy", "candidate", "--policy", "champion",
    )  # fmt: skip
    assert code == 0, text
    dr = found["policies"]["candidate"]["estimates"]["dr"]
    assert f"{dr['value']:.5f} [{dr['low']:.5f}, {dr['high']:.5f}]" in text
    assert first.run_id != second.run_id
