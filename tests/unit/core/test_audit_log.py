"""One list shows who decided what; a command deletes what is stored about a user."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.cli import app as cli
from nightbid.column_parsing import hashes
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.days import DayKey, DayResult, day_output
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.sealed import seal
from nightbid.storage.workspace import read_manifest
from typer.testing import CliRunner

DAY = dt.date(2026, 1, 20)


@pytest.fixture
def night(recorded_run, tmp_path, monkeypatch) -> RunRecord:
    """Promote a night whose outputs follow from each other, with rows of users 7 and 8."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "ctr.yaml").write_text("pipeline: ctr\nfeatures: {platform: vocabulary}\n")
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(folder))
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "workspace"))
    override = {"gate": "model", "check": "calibration", "name": "ana",
                "reason": "a known offset", "until": "2026-02-01"}  # fmt: skip
    run = recorded_run("ctr-a", gates={"overrides": [override]})
    start = dt.datetime(2026, 1, 21, 9, tzinfo=dt.UTC)
    run.record(
        StageRecord(
            stage="approve", state="done", started=start, seconds=0, summary="approved", by="ben"
        )
    )
    users = pa.table({"nb_user": pa.array(hashes(pa.array(["7", "8", "8"])).view("int64"))})
    compared = run.workspace.root / "comparisons" / "ctr" / "a-b"
    compared.mkdir(parents=True)
    pq.write_table(users, str(compared / "scores.parquet"))
    before = ""
    for stage in ("sample", "featurize", "train", "export"):
        output = run.workspace.at(run.stage(stage).uri)
        if stage in ("sample", "featurize"):
            pq.write_table(users, str(output / "rows.parquet"))
        manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
        linked = manifest.model_copy(update={"inputs": {"before": before} if before else {}})
        (output / "manifest.json").write_text(seal(linked))
        before = manifest.digest
    for kind in ("sample", "learn"):
        key = DayKey(kind, DAY, {"logs": kind})

        def make(folder, kind=kind):
            if kind == "sample":
                pq.write_table(users, folder / "rows.parquet")
            return DayResult()

        day_output(run.workspace, key, make, pipeline="ctr", run_id=run.run_id)
    uri = run.stage("export").uri
    ChampionPointer(run.workspace, "ctr").promote(
        run_id=run.run_id, night=DAY, bundle_uri=uri, reason="better",
        bundle_digest=read_manifest(run.workspace.at(uri)).digest,
    )  # fmt: skip
    return run


def stdout_of(command: str) -> str:
    done = CliRunner().invoke(cli.app, command.split())
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_the_audit_log_lists_each_decision_with_person_and_reason(night: RunRecord) -> None:
    stdout_of("champion pause ctr --reason incident")
    stdout_of("champion resume ctr")
    pointer = ChampionPointer(night.workspace, "ctr")
    pointer.retire(1, "it was wrong", by="cleo")
    entries = json.loads(stdout_of("audit ctr --json"))
    decisions = [(entry["what"].partition(":")[0], entry["by"]) for entry in entries]
    assert ("override model calibration until 2026-02-01, from ctr-a on", "ana") in decisions
    assert ("approve ctr-a", "ben") in decisions
    assert ("promote #1", "night") in decisions
    assert decisions[-1] == ("retire #2", "cleo")
    assert [entry["what"] for entry in entries][-3:-1] == ["pause promotions", "resume promotions"]
    assert "incident" in stdout_of("audit ctr")


def test_audit_without_a_pipeline_lists_decisions_of_all_pipelines(night, recorded_run) -> None:
    """The list includes a pipeline whose YAML is gone."""
    override = {"gate": "raw", "check": "*", "name": "eve", "reason": "first week", "until":
                "2026-02-01"}  # fmt: skip
    recorded_run("old-a", pipeline="old", gates={"overrides": [override]})
    stdout_of("champion pause ctr --reason incident")
    stdout_of("data forget 7 --delete --reason request-9 --by dee")
    entries = json.loads(stdout_of("audit --json"))
    about = {(entry["pipeline"], entry["what"].split()[0]) for entry in entries}
    assert {("ctr", "promote"), ("ctr", "pause"), ("old", "override"), ("", "forget")} <= about
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    of_ctr = [entry for entry in entries if entry["pipeline"] != "old"]
    assert of_ctr == json.loads(stdout_of("audit ctr --json"))
    assert "request-9" in stdout_of("audit")


def test_forgetting_a_user_deletes_derived_outputs_and_names_the_champion(night) -> None:
    def existing_outputs() -> set[str]:
        stages = night.workspace.root / "stages" / "ctr"
        return {path.parent.parent.name for path in stages.rglob("manifest.json")}

    before = existing_outputs()
    assert "no data about them is stored" in stdout_of("data forget 9")
    listed = stdout_of("data forget 8 9")
    assert "champion #1 of ctr was trained on them and stays" in listed
    assert "would be removed" in listed
    assert existing_outputs() == before, "only listed"
    stdout_of("data forget 8 --delete --reason request-12 --by dee")
    assert before - existing_outputs() == {"sample", "featurize", "train"}
    assert not list((night.workspace.root / "comparisons").rglob("*.parquet"))
    assert not list((night.workspace.root / "days").rglob("manifest.json")), "learn of the day too"
    assert "no data about them is stored" in stdout_of("data forget 8")
    last = json.loads(stdout_of("audit ctr --json"))[-1]
    assert (last["by"], last["reason"]) == ("dee", "request-12")
    assert last["what"] == "forget 1 user: 6 outputs; had learned: ctr #1"


def test_forgetting_a_user_deletes_damaged_outputs_and_stops_at_an_unreadable_file(night) -> None:
    sampled = night.workspace.at(night.stage("sample").uri)
    (sampled / "rows.parquet").write_bytes(b"PAR1 cut off")
    trained = night.workspace.at(night.stage("train").uri)
    (trained / "manifest.json").write_text("{")
    assert "would be removed" in stdout_of("data forget 9"), "they may have rows of the user"

    featurized = night.workspace.at(night.stage("featurize").uri) / "rows.parquet"
    content = featurized.read_bytes()
    featurized.unlink()
    featurized.symlink_to(featurized.name)
    command = "data forget 9 --delete --reason request-13"
    refused = CliRunner().invoke(cli.app, command.split())
    assert refused.exit_code != 0
    assert f"{featurized}: rows of the users may be here" in str(refused.exception)
    assert sampled.exists(), "nothing is removed before everything was searched"

    featurized.unlink()
    featurized.write_bytes(content)
    stdout_of(command)
    assert not sampled.exists()
    assert not trained.exists()
    assert "no data about them is stored" in stdout_of("data forget 9")
