"""Tests suites: bands proposed from history, overrides, and how both are read back."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from nightbid.cli.gates import app
from nightbid.config.load import find_pipeline
from nightbid.night.attempts import StageRecord
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace
from typer.testing import CliRunner

FIRST = date(2026, 1, 10)
PIPELINE = {"pipeline": "t", "features": {"platform": "vocabulary"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder with one pipeline, next to a workspace."""
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(tmp_path / "pipelines"))
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "t.yaml").write_text(yaml.safe_dump(PIPELINE))
    return tmp_path / "pipelines"


def write_judged_night(
    folder: Path, back: int, value: float, verdict: str = "pass", by: str = ""
) -> None:
    """Write the output that a raw gate leaves for one night."""
    workspace = Workspace(str(folder.parent / "workspace"))
    night = FIRST + timedelta(days=back)
    run = RunRecord.start(workspace, find_pipeline("t", folder), night)
    part = night.isoformat()
    finding = {"statistic": "psi:platform", "part": part, "override": {"name": by} if by else None}
    result = {
        "night": part,
        "verdict": verdict,
        "findings": [finding],
        "facts": [
            ["psi:platform", part, value, ""],
            ["null_excess:platform", part, 0.0, ""],
            ["null_excess:site", part, 0.0, ""],
            ["null_excess:site", f"{part}, 10,000 sampled rows", 0.0, ""],
            ["attribute_loss:site", f"{part}, by ad_id", 0.0, ""],
            ["auc_gain:site", f"{part}, its order", 0.01, ""],
            ["quarantined", part, 0.0, ""],
            ["rows", part, 1000.0, ""],
        ],
    }
    output = workspace.root / "outputs" / part
    output.mkdir(parents=True)
    (output / "gate.json").write_text(json.dumps(result))
    run.record(
        StageRecord(
            stage="gate_raw",
            state="stopped" if verdict == "stop" else "done",
            uri=f"outputs/{part}",
            started=datetime.now(UTC),
            seconds=1,
        )
    )


def gates_command(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_propose_learns_bands_from_passed_nights_and_shows_the_others(folder) -> None:
    for back, value in enumerate((0.010, 0.012, 0.008, 0.011)):
        write_judged_night(folder, back, value)
    write_judged_night(folder, 4, 0.8, verdict="stop")
    write_judged_night(folder, 5, 0.09, verdict="warn", by="Ann")
    output = gates_command("propose", "t", "--days", "14")
    assert "then rename to t.yaml" in output
    proposed = folder / "suites" / "t.proposed.yaml"
    assert find_pipeline("t", folder).gates.bands == (), "nothing is in force yet"

    page = proposed.with_suffix(".html").read_text()
    drawn = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(drawn) == 1, "one chart for what moved; what never did is in a table"
    lines = {line["name"]: line for line in json.loads(drawn[0])["series"]}
    assert len(lines["seen"]["points"]) == 4
    assert len(lines["left out"]["points"]) == 2
    assert (lines["left out"]["line"], lines["left out"]["tone"]) == (False, "bad")
    assert lines["warn"]["dashed"]
    assert lines["stop"]["dashed"]
    assert re.fullmatch(r"2026-01-\d\d", lines["seen"]["points"][0][0])
    assert "night 2026-01-14 was stopped" in page
    assert "let pass by Ann" in page
    assert "null_excess:platform" in page

    proposed.rename(folder / "suites" / "t.yaml")
    bands = {band.statistic: band for band in find_pipeline("t", folder).gates.bands}
    learned = {"psi:platform", "null_excess", "quarantined", "auc_gain:site", "attribute_loss:site"}
    assert set(bands) == learned
    assert bands["quarantined"].stop == (None, 0.004), "some broken rows are no disaster"
    assert bands["null_excess"].columns == ("platform", "site"), "one line where limits are equal"
    assert bands["psi:platform"].warn == (None, 0.024), "twice as far as anything seen"
    assert bands["psi:platform"].stop == (None, 0.05), "at least a share of the limit in force"
    assert "4 values" in bands["psi:platform"].why


def test_propose_keeps_overrides_added_meanwhile(folder) -> None:
    for back in range(3):
        write_judged_night(folder, back, 0.01)
    gates_command("propose", "t")
    gates_command(
        "override", "t", "raw/psi:*", "--name", "Ann", "--reason", "new creatives launched",
        "--until", "2026-02-01",
    )  # fmt: skip
    gates_command("propose", "t")
    (folder / "suites" / "t.proposed.yaml").rename(folder / "suites" / "t.yaml")
    gates = find_pipeline("t", folder).gates
    assert [(override.name, override.until) for override in gates.overrides] == [
        ("Ann", date(2026, 2, 1))
    ]
    assert gates.bands
    assert "Ann: new creatives launched" in gates_command("show", "t")


def test_propose_needs_three_judged_nights(folder) -> None:
    write_judged_night(folder, 0, 0.01)
    write_judged_night(folder, 1, 0.01)
    with pytest.raises(Exception, match="fewer than 3 nights of 't' have been judged"):
        gates_command("propose", "t")


def test_noise_without_an_evaluated_night_is_rejected_with_a_fix(folder) -> None:
    with pytest.raises(Exception, match=r"no night of 't' has been evaluated yet.*--date"):
        gates_command("noise", "t")


def test_an_override_for_a_check_never_measured_is_rejected(folder) -> None:
    write_judged_night(folder, 0, 0.01)
    arguments = ("--name", "Ann", "--reason", "new creatives launched", "--until", "2026-02-01")
    with pytest.raises(Exception, match=r"measured no 'psi:platfrom'.*did you mean 'psi:platform'"):
        gates_command("override", "t", "raw/psi:platfrom", *arguments)
    with pytest.raises(Exception, match=r"no check 'psy'; did you mean 'psi'|measured no 'psy'"):
        gates_command("override", "t", "raw/psy", *arguments)
