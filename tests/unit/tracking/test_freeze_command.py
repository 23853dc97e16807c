"""Tests `nightbid data freeze` and `data frozen`."""

from __future__ import annotations

import pytest
from nightbid.cli.data import app
from nightbid.errors import CorruptDataError
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace
from typer.testing import CliRunner

SMALL = """
pipeline: small
source: {kind: simulator, rows_per_day: 200, users: 50, ads: 20}
window: {train_days: 1}
features: {ad_id: vocabulary}
"""


SAMPLE = ("run", "small", "--date", "2026-01-05", "--until", "sample")


@pytest.fixture
def nightbid(tmp_path, monkeypatch):
    from nightbid.cli.app import app as main_app

    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(tmp_path))
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NIGHTBID_TRACKING", "")
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()

    def invoke(*words):
        return runner.invoke(main_app if words[0] == "run" else app, words)

    assert invoke(*SAMPLE).exit_code == 0
    return invoke


def test_freeze_command_freezes_lists_and_checks_rows(nightbid, tmp_path):
    assert "freeze PIPELINE RUN" in nightbid("frozen").stdout
    done = nightbid(
        "freeze", "small", "small-2026-01-05", "--name", "base-of-january", "--reason", "a test"
    )
    assert done.exit_code == 0, done.output
    assert "base-of-january: " in done.stdout
    listed = nightbid("frozen", "--check").stdout
    assert "a test" in listed
    assert "base-of-january" in listed, "whole, on a terminal of 80 columns"
    assert "all bytes are unchanged" in listed
    (path, *_) = sorted((tmp_path / "ws" / "datasets" / "base-of-january").rglob("*.parquet"))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"x")
    broken = nightbid("frozen", "--check")
    assert isinstance(broken.exception, CorruptDataError)


def test_a_pipeline_reads_frozen_rows_after_its_logs_changed(nightbid, tmp_path):
    nightbid("freeze", "small", "small-2026-01-05", "--name", "base")
    other = SMALL.replace("users: 50", "users: 60")
    (tmp_path / "small.yaml").write_text(other)
    use = ("--set", "sampling.frozen=base", "--run-id", "again")
    done = nightbid(*SAMPLE, *use)
    assert done.exit_code == 0, done.output
    workspace = Workspace(str(tmp_path / "ws"))

    def digest(run_id: str) -> str:
        record = RunRecord.load(workspace, "small", run_id).stage("sample")
        path = workspace.at(record.uri) / "manifest.json"
        return Manifest.model_validate_json(path.read_text()).digest

    assert digest("again") == digest("small-2026-01-05")
    assert nightbid(*SAMPLE, "--run-id", "new").exit_code == 0
    assert digest("new") != digest("again")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "label.column=conversion"), "another `label`"),
        (("--date", "2026-01-06"), "--date 2026-01-05"),
        (("--set", "sampling.frozen=bass"), "there are: base"),
    ],
)
def test_frozen_rows_are_rejected_for_another_label_or_night(nightbid, words, message):
    nightbid("freeze", "small", "small-2026-01-05", "--name", "base")
    done = nightbid(*SAMPLE, "--set", "sampling.frozen=base", "--run-id", "again", *words)
    assert message in f"{done.output}{done.exception}"
