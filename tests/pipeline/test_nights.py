"""Whole nights from the shell: a user's view, and the effects of bad input."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest
import yaml
from nightbid.features.fitted import FittedFeatures
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord, runs_of
from nightbid.night.stages import NIGHT
from nightbid.night.turns import Turns
from nightbid.storage.workspace import Workspace

pytestmark = pytest.mark.slow
STAGES = [stage.name for stage in NIGHT]


def manifest(run: RunRecord, stage: str) -> dict:
    record = run.stage(stage)
    assert record is not None
    return json.loads((run.workspace.at(record.uri) / "manifest.json").read_text())


def test_second_night_meets_the_champion_and_a_rerun_reuses_all_stages(shell, two_nights):
    shell.write()
    shell.take(two_nights)
    text = (two_nights / "output").read_text()
    for stage in STAGES:
        assert text.count(f"✓ {stage} ") == 2
    workspace = Workspace(str(shell.workspace))
    first, second = runs_of(workspace, "small")
    assert manifest(first, "evaluate")["metrics"]["reference"] == "baseline"
    judged = manifest(second, "evaluate")["metrics"]
    assert judged["reference"] == "champion"
    assert judged["verdict"] in text
    # The simulator knows the true probabilities, so no model may beat it.
    assert judged["candidate"]["log_loss"] > judged["oracle"]["log_loss"]
    history = ChampionPointer(workspace, "small").history()
    assert [entry.run_id for entry in history] == ["small-2026-01-04", "small-2026-01-05"]
    reports = [line for line in text.splitlines() if line.startswith("report: ")]
    page = Path(reports[-1].removeprefix("report: ")).read_text()
    assert f"{judged['candidate']['auc']:.4f}" in page
    for run in (first, second):
        rows = {name: manifest(run, name)["rows"] for name in ("sample", "featurize")}
        assert rows["sample"]["written"] == rows["featurize"]["read"] > 0
        assert manifest(run, "export")["metrics"]["skew_mismatches"] == 0
        assert manifest(run, "export")["metrics"]["skew_rows"] > 0

    # Each model was judged on its night's newest day. On the newer night's rows, the older model
    # gives the same difference as that night's evaluation, in which it was the champion.
    runs = ("compare", "small", first.run_id, second.run_id)
    code, text = shell.run(*runs)
    assert f"evaluated on different rows than {first.run_id}; --same-rows" in " ".join(text.split())
    code, text = shell.run(*runs, "--same-rows", "--json")
    assert code == 0, text
    (pair,) = json.loads(text)["paired"]
    assert pair["rows_of"] == second.run_id
    for figure in ("auc", "normalized_entropy"):
        expected = judged["difference"][figure]["value"]
        assert pair["differences"][figure]["value"] == pytest.approx(expected, abs=1e-6)

    code, again = shell.run("run", "small", "--date", "2026-01-05")
    assert code == 0, again
    assert again.count("reused") >= len(STAGES)
    assert len(ChampionPointer(workspace, "small").history()) == 2

    # A person may let the candidate of any run serve that passed its gates.
    promote = ("champion", "promote", "small")
    assert "a promotion needs a run" in shell.run(*promote)[1]
    assert "a promotion needs a reason" in shell.run(*promote, "small-2026-01-04")[1]
    code, output = shell.run(*promote, "small-2026-01-04", "--reason", "an A/B test")
    assert code == 0, output
    assert "small: small-2026-01-04 serves (entry #3)" in output

    # The third night has the first model as its champion again, then no champion.
    code, output = shell.run("champion", "retire", "small", "2", "--reason", "trained on a leak")
    assert code == 0, output
    assert "small: #2 is retired and is no longer a reference; small-2026-01-04 serves" in output
    assert "needs a reason" in shell.run("champion", "retire", "small", "1")[1]
    code, output = shell.run("champion", "retire", "small", "1", "--reason", "trained on a leak")
    assert "nothing serves" in output
    code, output = shell.run("champion", "small")
    assert code == 0, output
    assert "no longer has a champion" in output

    # Only the seed varies: the night's training is one of the draws, and no new night runs.
    code, output = shell.run("gates", "noise", "small", "--seeds", "1")
    assert code == 0, output
    assert "night of 2026-01-05" in output
    assert f"{judged['candidate']['auc']:.5f}" in output
    suite = yaml.safe_load((shell.pipelines / "suites" / "small.proposed.yaml").read_text())
    assert suite["seed_noise"]["seeds"] == [0, 1]
    assert 0 < suite["seed_noise"]["normalized_entropy"] < 0.1
    assert len(runs_of(workspace, "small")) == 2


def test_a_shell_night_waits_for_another_night_of_its_pipeline(shell):
    shell.write()
    turns = Turns(Workspace(str(shell.workspace)), "small")
    with turns.held("other"):
        assert turns.take("other", dt.date(2026, 1, 3), lambda _: False) == ""
        process = shell.start("run", "small", "--date", "2026-01-04", "--until", "sample")
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(2)]
        assert "small-2026-01-04 waits until run other has ended" in seen[1], seen
        assert process.poll() is None
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0, rest
    assert "✓ sample " in rest


def test_features_command_shows_the_statistics_of_the_newest_night(shell, two_nights):
    shell.write()
    code, text = shell.run("features", "small")
    assert code == 0, text
    assert "at most 100,002" in text
    assert "no fitted statistics yet" in text

    shell.take(two_nights, "stages")
    code, text = shell.run("run", "small", "--date", "2026-01-04", "--until", "featurize")
    assert code == 0, text
    (run,) = runs_of(Workspace(str(shell.workspace)), "small")
    record = run.stage("featurize")
    fitted = FittedFeatures.load(Path(shell.workspace) / record.uri / "fitted")
    rates = manifest(run, "featurize")["metrics"]["oov_rate"]
    ads = f"{len(fitted.learned['ad_id'].tokens):,} values, {rates['ad_id']:.2%} OOV"
    devices = f"{len(fitted.learned['device_type'].tokens):,} values"
    code, page = shell.run("features", "small", "--markdown")
    assert code == 0, page
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert list(rows) == list(fitted.definition.features)
    assert ads in rows["ad_id"]
    assert devices in rows["device_type"]
    assert "`user_id`, `time`" in rows["user_ctr"]
    assert "days before the row's own" in rows["user_ctr"]
    assert "training only" in rows["position"]
    report = Path(text.split("report: ")[-1].strip()).read_text()
    assert ads in report

    # It ended at the requested stage.
    code, listed = shell.run("runs", "small")
    assert code == 0, listed
    assert "done" in listed
    assert "running" not in listed

    # A state that was fitted for another definition does not apply here.
    code, page = shell.run("features", "small", "--markdown", "--set", "features.ad_id.min_count=9")
    assert code == 0, page
    assert ads not in page
    assert devices in page


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"text": "pipeline: small\nfeatures: [1\n"}, "malformed YAML"),
        ({"widow": {"train_days": 2}}, "unknown key 'widow', did you mean 'window'?"),
        ({"features": {"ad": {"column": "adid"}}}, "column 'adid' is missing"),
        ({"window": {"train_days": 30}}, "the logs start on 2026-01-01"),
        ({"features": {"click": "vocabulary"}}, "known only after the impression"),
        ({"label": {"column": "site_id"}}, "label 'site_id' is not binary"),
        ({"label": {"column": "clik"}}, "column 'clik' is missing"),
        ({"model": {"architecture": "dnc_v2"}}, "did you mean 'dcn_v2'?"),
    ],
    ids=["yaml", "key", "column", "window", "outcome", "label", "no-label", "architecture"],
)
def test_bad_input_fails_in_one_line_and_leaves_no_partial_output(shell, changes, expected):
    shell.write(**changes)
    code, text = shell.run("run", "small", "--date", "2026-01-05", "--until", "train")
    assert code in (2, 3)
    assert "Traceback" not in text
    fault = [line for line in text.splitlines() if expected in line]
    assert fault, text
    assert " → " in fault[-1] or "did you mean" in fault[-1], "the line says what to do"
    assert not list(shell.workspace.rglob(".tmp-*"))
    for folder in shell.workspace.glob("stages/small/*/*"):
        assert (folder / "manifest.json").exists(), folder


def test_a_night_without_its_folder_of_logs_has_failed(shell, tmp_path):
    shell.write(source={"kind": "parquet", "folder": str(tmp_path / "unmounted")})
    code, text = shell.run("run", "small", "--date", "2026-01-05")
    assert code == 3
    assert "no such folder" in text
    code, text = shell.run("runs", "small", "--json")
    (run,) = json.loads(text)
    assert (run["state"], run["headline"]) == ("failed", "failed at sample")


def test_error_names_the_truncated_or_missing_day_of_a_folder(shell, tmp_path):
    """An error names each missing, empty or truncated day."""
    shell.write()
    code, text = shell.run(
        "data", "write", "small", "--to", str(tmp_path / "logs"), "--date", "2026-01-01",
        "--days", "4",
    )  # fmt: skip
    assert code == 0, text
    source = {"kind": "parquet", "folder": str(tmp_path / "logs")}
    shell.write("own", source=source)
    code, text = shell.run("run", "own", "--date", "2026-01-04", "--until", "featurize")
    assert code == 0, text
    (day,) = (tmp_path / "logs").glob("*2026-01-02*")
    (file,) = day.glob("*.parquet")
    whole = file.read_bytes()
    for content, expected in ((whole[: len(whole) // 2], "2026-01-02"), (None, "2026-01-02")):
        if content is None:
            shutil.rmtree(day)
        else:
            file.write_bytes(content)
        code, text = shell.run("run", "own", "--date", "2026-01-04", "--until", "featurize")
        assert code == 3
        assert "Traceback" not in text
        assert expected in text.splitlines()[-1] or expected in text
