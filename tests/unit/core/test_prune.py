"""`nightbid data prune` deletes what nothing needs and keeps what anything needs."""

from __future__ import annotations

import datetime as dt
import json
import os

import pytest
from nightbid.cli.data import app
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.champion import ChampionPointer
from nightbid.night.days import DayKey, DayResult, day_output
from nightbid.night.record import RunRecord, runs_of
from nightbid.night.sealed import seal
from nightbid.report.records import pipelines
from nightbid.retention import check_clock, needed_now, prune, unneeded
from nightbid.sampling.frozen import freeze
from typer.testing import CliRunner

LATER = dt.datetime.now(dt.UTC) + dt.timedelta(days=40)
DAY = dt.date(2026, 1, 5)


def write_day_output(run: RunRecord, logs: str) -> str:
    """Write a day's output, made forty days before LATER, and return its key."""
    key = DayKey("sample", DAY, {"logs": logs})

    def make(folder):
        (folder / "rows.parquet").write_bytes(logs.encode() * 1000)
        return DayResult()

    return day_output(run.workspace, key, make, pipeline="ctr", run_id=run.run_id).key


def use_day_output(run: RunRecord, key: str) -> None:
    """Make the run's sample stage use this day's output."""
    record = run.stage("sample")
    path = run.workspace.at(record.uri) / "manifest.json"
    tree = json.loads(path.read_text())
    tree["metrics"]["day_outputs"] = {str(DAY): key}
    path.write_text(json.dumps(tree))


def existing_stages(run: RunRecord) -> set[str]:
    """Return the stages of a run whose output exists."""
    return {r.stage for r in run.records() if (run.workspace.at(r.uri) / "manifest.json").exists()}


def test_outputs_of_recent_runs_champions_and_frozen_rows_are_kept(recorded_run):
    first, second, third, frozen_run = (recorded_run(f"ctr-{name}") for name in "abcf")
    workspace = first.workspace
    pointer = ChampionPointer(workspace, "ctr")
    for run in (first, second):
        uri = run.stage("export").uri
        pointer.promote(
            run_id=run.run_id, night=DAY, bundle_uri=uri, bundle_digest=run.run_id, reason="better"
        )
    freeze(workspace, frozen_run, "rows-of-january")
    keys = {name: write_day_output(first, name) for name in ("champion", "third", "frozen")}
    use_day_output(second, keys["champion"])
    use_day_output(third, keys["third"])
    use_day_output(frozen_run, keys["frozen"])
    everything = existing_stages(third)
    assert unneeded(workspace, 60, LATER).unneeded == ()

    report = unneeded(workspace, 30, LATER)
    assert existing_stages(third) == everything, "a dry run removes nothing"
    prune(report)
    assert existing_stages(first) == {"export"}, "a rollback may go to any earlier champion"
    assert existing_stages(second) == everything
    assert existing_stages(third) == set()
    assert existing_stages(frozen_run) == everything
    left = {path.name for path in (workspace.root / "days" / "sample" / str(DAY)).iterdir()}
    assert left == {keys["champion"], keys["frozen"]}
    assert unneeded(workspace, 30, LATER).unneeded == ()
    assert len(RunRecord.load(workspace, "ctr", third.run_id).records()) == len(everything)


def test_hard_linked_bytes_are_not_counted_as_freed(recorded_run):
    run = recorded_run("ctr-a")
    key = write_day_output(run, "linked")
    folder = run.workspace.root / "days" / "sample" / str(DAY) / key
    size = (folder / "rows.parquet").stat().st_size
    before = unneeded(run.workspace, 30, LATER).freed
    os.link(str(folder / "rows.parquet"), str(run.workspace.root / "elsewhere.parquet"))
    assert unneeded(run.workspace, 30, LATER).freed == before - size


def test_old_leftovers_of_killed_attempts_are_deleted(recorded_run):
    run = recorded_run("ctr-a")
    folder = run.workspace.root / "days" / "sample" / str(DAY) / ".tmp-x-1"
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(b"x")
    report = unneeded(run.workspace, 30, LATER)
    assert [entry.what for entry in report.unneeded if entry.folder == folder] == ["left over"]
    assert not [e for e in unneeded(run.workspace, 60, LATER).unneeded if e.folder == folder]


def test_old_scores_of_comparisons_are_deleted(recorded_run):
    run = recorded_run("ctr-a")
    folder = run.workspace.root / "comparisons" / "ctr" / "bundle-rows"
    folder.mkdir(parents=True)
    (folder / "scores.parquet").write_bytes(b"x" * 500)
    assert "comparison of ctr" not in {entry.what for entry in unneeded(run.workspace, 28).unneeded}
    (comparison,) = (
        e for e in unneeded(run.workspace, 28, LATER).unneeded if "comparison" in e.what
    )
    assert (comparison.what, comparison.size) == ("comparison of ctr", 500)
    prune(unneeded(run.workspace, 28, LATER))
    assert not folder.exists()


def test_stray_files_are_neither_removed_nor_in_the_way(recorded_run, tmp_path):
    run = recorded_run("ctr-a")
    root = run.workspace.root
    strays = [root / name / ".DS_Store" for name in ("stages", "stages/ctr/sample", "days", "runs")]
    strays += [root / "days" / "sample" / str(DAY) / "notes.txt"]
    for path in strays:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_day_output(run, "logs")
    folder = run.workspace.at(run.stage("sample").uri)  # on another disk
    folder.rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", str(folder))
    assert prune(unneeded(run.workspace, 30, LATER)).failures == ()
    assert existing_stages(run) == set()
    assert not [*(root / "stages").rglob(".pruned-*")]
    assert all(path.exists() for path in strays)
    assert (pipelines(run.workspace), runs_of(run.workspace, ".DS_Store")) == (["ctr"], [])


def test_champions_are_kept_without_the_records_of_their_runs(recorded_run):
    run = recorded_run("ctr-a")
    uri = run.stage("export").uri
    pointer = ChampionPointer(run.workspace, "ctr")
    pointer.promote(
        run_id=run.run_id, night=DAY, bundle_uri=uri, bundle_digest="b", reason="better"
    )
    (run.workspace.root / "runs").rename(run.workspace.root / "archive")
    prune(unneeded(run.workspace, 30, LATER), lambda: needed_now(run.workspace, 30))
    assert (run.workspace.at(uri) / "manifest.json").exists()


def test_prune_fails_on_a_damaged_record(recorded_run):
    run = recorded_run("ctr-a")
    path = run.folder / "run.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(CorruptDataError, match="move this run's folder away"):
        unneeded(run.workspace, 30, LATER)


def test_prune_only_lists_outputs_without_delete(recorded_run, monkeypatch):
    run = recorded_run("ctr-a")
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(run.workspace.root / "misspelled"))
    assert "there is no workspace" in str(CliRunner().invoke(app, ["prune"]).exception)
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(run.workspace.root))
    head = json.loads((run.folder / "run.json").read_text())
    del head["checksum"]
    head["started"] = "2026-01-21T02:00:00Z"
    (run.folder / "run.json").write_text(json.dumps(head))
    everything = existing_stages(run)
    refused = CliRunner().invoke(app, ["prune", "--delete"])
    assert refused.exit_code
    assert "no run is from the last 30 days (the newest: ctr ctr-a, 2026-01-21)" in str(
        refused.exception
    )
    assert existing_stages(run) == everything
    listed = CliRunner().invoke(app, ["prune", "--trust-clock"])
    assert listed.exit_code == 0, listed.output
    assert "sample of ctr" in listed.output
    assert "remove them with --delete" in listed.output
    assert existing_stages(run) == everything
    done = CliRunner().invoke(app, ["prune", "--delete", "--trust-clock"])
    assert done.exit_code == 0, done.output
    assert "removed" in done.output
    assert existing_stages(run) == set()


@pytest.mark.parametrize(
    ("years", "line"),
    [(40, "no run is from the last 30 days .* all runs would lose their outputs → check `date`"),
     (-56, "the run ctr ctr-[ab] is from 20.*, but the clock says 19.*: nothing is removed")],
)  # fmt: skip
def test_prune_deletes_nothing_when_the_clock_has_jumped(recorded_run, years, line):
    run = recorded_run("ctr-a")
    recorded_run("ctr-b")
    now = dt.datetime.now(dt.UTC)
    check_clock(run.workspace, 30, now)
    check_clock(run.workspace, 30, now + dt.timedelta(days=20))
    with pytest.raises(WorkspaceError, match=line):
        check_clock(run.workspace, 30, now + dt.timedelta(days=365 * years))


def test_prune_deletes_nothing_after_a_run_dated_years_ahead(recorded_run):
    run, other = recorded_run("ctr-a"), recorded_run("ctr-b")
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(days=3650)
    head = other.head.model_copy(update={"started": ahead})
    (other.folder / "run.json").write_text(seal(head))
    with pytest.raises(WorkspaceError, match="the one before from"):
        check_clock(run.workspace, 30, ahead)
    with pytest.raises(WorkspaceError, match=r"ctr-b is from .* but the clock says"):
        check_clock(run.workspace, 30)


def test_outputs_that_a_night_starts_to_use_during_prune_are_kept(recorded_run):
    run = recorded_run("ctr-a")
    report = unneeded(run.workspace, 30, LATER)
    assert {entry.folder for entry in report.unneeded}
    everything = existing_stages(run)
    removal = prune(report, lambda: needed_now(run.workspace, 30))
    assert removal.still_needed == len(everything)
    assert existing_stages(run) == everything
