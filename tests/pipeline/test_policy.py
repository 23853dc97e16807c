"""Off-policy evaluation in nights from the shell, on logs with propensities and known truth."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nightbid.data import obd
from nightbid.night.record import RunRecord, runs_of
from nightbid.storage.workspace import Workspace
from nights import TREES
from preloaded import COMMANDS

pytestmark = pytest.mark.slow


def replayed(run: RunRecord) -> Path:
    record = run.stage("replay")
    assert record is not None
    return Path(str(run.workspace.at(record.uri)))


def test_off_policy_estimates_are_within_error_of_the_true_value(shell):
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
        model=TREES,
        baseline=TREES,
        train={"refit": False},
        policy={"temperature": 0.5},
    )  # fmt: skip
    for night in (["2026-01-08"], ["2026-01-09", "--until", "gate_value"]):
        code, text = shell.run("run", "small", "--date", *night)
        assert code == 0, text
        assert "against the logged choices)" in text
    first, second = runs_of(Workspace(str(shell.workspace)), "small")
    metrics = json.loads((replayed(second) / "manifest.json").read_text())["metrics"]["policy"]
    # Detected without settings: an ad's category and age belong to the ad, the page does not.
    assert sorted(metrics["item_columns"]) == ["ad_age_days", "ad_category"]
    assert list(metrics["policies"]) == ["candidate", "champion"]
    for policy in metrics["policies"].values():
        for name in ("ips", "snips", "dr", "sndr"):
            estimate = policy["estimates"][name]
            # Allow five standard errors, not two, because this is a single night.
            reach = 2.5 * (estimate["high"] - estimate["low"]) / 2
            assert abs(estimate["value"] - policy["truth"]) < reach, name
        assert policy["gains"]["dr"]["high"] > 0
    assert metrics["candidate_less_champion"]["low"] < metrics["candidate_less_champion"]["high"]
    page = (shell.workspace / "runs" / "small" / second.run_id / "report.html").read_text()
    assert 'id="policy-figures"' in page

    code, text = shell.run(
        "bids", "policy", str(replayed(second) / "policy.parquet"), "--user", "user",
        "--policy", "candidate", "--policy", "champion",
    )  # fmt: skip
    assert code == 0, text
    dr = metrics["policies"]["candidate"]["estimates"]["dr"]
    assert f"{dr['value']:.5f} [{dr['low']:.5f}, {dr['high']:.5f}]" in text
    assert first.run_id != second.run_id


ITEMS, DAYS = 12, [date(2019, 11, 24) + timedelta(days=at) for at in range(4)]


def open_bandit() -> bytes:
    """Return an archive like the Open Bandit logs; items with higher numbers get more clicks."""
    draw = np.random.default_rng(0)
    rows = 1500 * len(DAYS)
    item = draw.integers(0, ITEMS, rows)
    seconds = np.sort(draw.integers(0, 86_400 * len(DAYS), rows))
    time = pd.Timestamp(DAYS[0], tz="UTC") + pd.to_timedelta(seconds * 1_000_000 + 41_011, "us")
    log = pd.DataFrame(
        {
            "timestamp": time.astype(str),
            "item_id": item,
            "position": draw.integers(1, 4, rows),
            "click": (draw.random(rows) < 0.02 + 0.02 * item).astype(int),
            "propensity_score": 1 / ITEMS,
            "user_feature_0": draw.choice(["aa", "bb", "cc"], rows),
            "user_feature_1": [f"u{user}" for user in draw.integers(0, 90, rows)],
            "user-item_affinity_0": draw.random(rows).round(3),
        }
    )
    items = pd.DataFrame({"item_id": range(ITEMS), "item_feature_0": np.arange(ITEMS) / 10})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for name, frame in (("all.csv", log), ("item_context.csv", items)):
            text = frame.to_csv().encode()
            entry = tarfile.TarInfo(f"obp-{obd.VERSION}/obp/dataset/obd/random/all/{name}")
            entry.size = len(text)
            packed.addfile(entry, io.BytesIO(text))
    return out.getvalue()


PROGRAM = """
from nightbid.cli.app import app
from nightbid.data import obd

obd.DIGEST = "{digest}"
app()
"""


def test_a_night_on_open_bandit_logs_estimates_its_policy_value(shell, tmp_path):
    content = open_bandit()
    archive = Path(shell.environment["NIGHTBID_CACHE"]) / "obd" / obd.ARCHIVE
    archive.parent.mkdir(parents=True)
    archive.write_bytes(content)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(digest=hashlib.sha256(content).hexdigest()))
    shell.write(
        source={"kind": "obd"},
        features={
            "item_id": "vocabulary",
            "item_feature_0": "numeric",
            "user_feature_0": "vocabulary",
            "position": {"transform": "identity", "size": 8, "training_only": True},
        },
        model=TREES,
        baseline=TREES,
        train={"refit": False},
        evaluate={"bootstrap": 50, "margin_ne": 1, "margin_auc": 1},
        policy={"temperature": 0.5},
    )
    command = ("run", "small", "--date", str(DAYS[-1]))
    done = COMMANDS.run(*command, module=str(program), env=shell.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = runs_of(Workspace(str(shell.workspace)), "small")
    metrics = json.loads((replayed(run) / "manifest.json").read_text())["metrics"]["policy"]
    assert (metrics["items"], metrics["item_columns"]) == (ITEMS, ["item_feature_0"])
    mine = metrics["policies"]["candidate"]
    assert set(mine["estimates"]) == {"dm", "ips", "snips", "dr", "sndr", "switch_dr", "dr_os"}
    # A uniform policy has a click rate of 13%; one by squared odds has about 20%.
    assert metrics["logged"]["low"] < 0.13 < metrics["logged"]["high"]
    assert mine["gains"]["dr"]["low"] > 0
    assert 0.15 < mine["estimates"]["dr"]["value"] < 0.25
    page = (shell.workspace / "runs" / "small" / run.run_id / "report.html").read_text()
    assert 'id="policy-figures"' in page
    assert "Switch-DR" in page
