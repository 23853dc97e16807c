"""`nightbid ablate` reports what a feature is worth and what it costs."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest
import yaml
from nightbid.config.load import load_pipeline
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS

PIPELINE = {
    "pipeline": "small",
    "source": {"kind": "simulator", "rows_per_day": 12000, "users": 300, "ads": 100},
    "window": {"train_days": 2},
    "features": {
        "device_type": "vocabulary",
        "interests": "bag",
        "viewability": {"transform": "quantile_buckets", "buckets": 8},
        "user_ctr": {"transform": "target_rate", "columns": ["user_id"]},
        "language": "vocabulary",
    },
    "model": {"architecture": "gradient_boosted_trees", "parameters": {"trees": 60}},
    "evaluate": {"bootstrap": 50},
}


@pytest.fixture(scope="module")
def nightbid(tmp_path_factory):
    """Return the `nightbid` command for a run whose candidate is trained."""
    folder = tmp_path_factory.mktemp("ablate")
    path = folder / "pipelines" / "small.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(PIPELINE))
    spec, workspace = load_pipeline(path), Workspace(str(folder / "workspace"))
    record = RunRecord.start(workspace, spec, date(2026, 1, 8))
    for name in ("sample", "featurize", "train"):
        run_stage(stage_named(name), spec, record, cache_folder=folder / "cache")
    environment = {
        "NIGHTBID_WORKSPACE": str(folder / "workspace"),
        "NIGHTBID_PIPELINES": str(folder / "pipelines"),
        "NIGHTBID_CACHE": str(folder / "cache"),
        "NIGHTBID_TRACKING": "",
        "COLUMNS": "220",
    }

    def run(*arguments: str) -> tuple[int, str]:
        done = COMMANDS.run(*arguments, env={**os.environ, **environment, "NO_COLOR": "1"})
        return done.returncode, done.stdout + done.stderr

    run.folder = record.folder
    return run


def test_ablate_reports_worth_and_cost_of_each_feature(nightbid) -> None:
    code, output = nightbid("ablate", "small", "small-2026-01-08")
    assert code == 0, output
    ablation = json.loads((nightbid.folder / "ablation.json").read_text())
    assert {feature["name"] for feature in ablation["features"]} == set(PIPELINE["features"])
    worth = {feature["name"]: feature for feature in ablation["features"]}
    values = [feature["log_loss"]["value"] for feature in ablation["features"]]
    assert values == sorted(values, reverse=True)
    # Users differ, and their click rate predicts; the language says nothing about the click.
    assert worth["user_ctr"]["log_loss"]["low"] > 0
    assert worth["language"]["log_loss"]["value"] < worth["user_ctr"]["log_loss"]["value"]
    for feature in ablation["features"]:
        assert feature["night_seconds"] > 0
        assert feature["night_usd"] > 0
        assert feature["request_ms"] > 0
    assert "log loss without it" in output
    page = Path(nightbid.folder / "report.html").read_text()
    assert "Value of each feature" in page
    assert "viewability" in page


def test_ablate_retrains_without_a_group_of_features(nightbid) -> None:
    code, output = nightbid(
        "ablate", "small", "small-2026-01-08", "--retrain", "--group", "seen=viewability,user_ctr"
    )
    assert code == 0, output
    ablation = json.loads((nightbid.folder / "ablation.json").read_text())
    assert ablation["method"] == "retraining"
    (one,) = ablation["features"]
    assert (one["name"], one["features"]) == ("seen", ["viewability", "user_ctr"])
    assert one["log_loss"]["value"] > 0
    assert one["auc"]["value"] < 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "viewabilty"), "no feature called 'viewabilty' → did you mean 'viewability'?"),
        (("--group", "seen"), "cannot read the group 'seen'"),
    ],
)
def test_ablate_rejects_unknown_features_and_groups(nightbid, arguments, message) -> None:
    code, output = nightbid("ablate", "small", "small-2026-01-08", *arguments)
    assert code == 2
    assert message in " ".join(output.split())
