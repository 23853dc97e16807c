"""`nightbid data freeze` and `data frozen`."""

from __future__ import annotations

import pytest
from nightbid.cli.data import app
from nightbid.errors import CorruptDataError
from typer.testing import CliRunner

SMALL = """
pipeline: small
source: {kind: simulator, rows_per_day: 200, users: 50, ads: 20}
window: {train_days: 1}
features: {ad_id: vocabulary}
"""


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
    night = ["run", "small", "--date", "2026-01-05", "--until", "sample"]
    assert runner.invoke(main_app, night).exit_code == 0
    return lambda *words: runner.invoke(app, words)


def test_rows_are_frozen_listed_and_checked(nightbid, tmp_path):
    assert "freeze PIPELINE RUN" in nightbid("frozen").stdout
    done = nightbid("freeze", "small", "small-2026-01-05", "--name", "base", "--reason", "a test")
    assert done.exit_code == 0, done.output
    assert "base: " in done.stdout
    listed = nightbid("frozen", "--check").stdout
    assert "a test" in listed
    assert "every byte is as it was frozen" in listed
    (path, *_) = sorted((tmp_path / "ws" / "datasets" / "base").rglob("*.parquet"))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"x")
    broken = nightbid("frozen", "--check")
    assert isinstance(broken.exception, CorruptDataError)
