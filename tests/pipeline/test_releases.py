"""The current code opens, continues and rolls back a workspace of every earlier release."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

RELEASES = Path(__file__).resolve().parents[1] / "releases"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("release", sorted(path.name for path in RELEASES.glob("*.tar.xz")))
def test_a_workspace_of_an_earlier_release_still_works(release, shell, tmp_path):
    with tarfile.open(RELEASES / release) as archive:
        archive.extractall(tmp_path, filter="data")

    def told(*command: str) -> str:
        code, text = shell.run(*command)
        assert code == 0, text
        return text

    def champions() -> list[tuple[int, str]]:
        history = json.loads(told("champion", "small", "--json"))["history"]
        return [(champion["number"], champion["run_id"]) for champion in history]

    runs = json.loads(told("runs", "small", "--json"))
    assert {(run["run_id"], run["state"]) for run in runs} == {
        ("small-2026-01-04", "done"),
        ("small-2026-01-05", "done"),
    }
    before = [(1, "small-2026-01-04"), (2, "small-2026-01-05")]
    assert champions() == before
    assert "serving pass" in told("gates", "show", "small", "small-2026-01-05")
    spent = json.loads(told("cost", "show", "small", "--json"))
    assert {entry["attempts"] for entry in spent if entry["stage"] == "train"} == {"2"}
    told("compare", "small", "small-2026-01-04", "small-2026-01-05")

    # The next night is compared with the earlier release's champion and may replace it.
    quick = ("--set", "train.refit=false", "--set", "load_test.requests=60")
    night = told("run", "small", "--date", "2026-01-06", *quick)
    assert "against the champion" in " ".join(night.split())
    told("rollback", "small", "--to", "1", "--reason", "tried", "--by", "me")
    assert champions()[-1][1] == "small-2026-01-04"
    assert "can be removed" in told("data", "prune")
