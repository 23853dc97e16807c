"""Records are read only once, and yet the summaries include every later write."""

from __future__ import annotations

import os
import shutil
import time

from nightbid.cost.ledger import Ledger, record_stage_usage, total
from nightbid.night.manifest import Usage
from nightbid.report import records
from nightbid.report.run_view import RunView
from nightbid.report.summaries import Summaries
from nightbid.storage.workspace import Workspace


def make_old(*folders) -> None:
    """Make folders look unchanged for a minute."""
    then = time.time() - 60
    for folder in folders:
        os.utime(str(folder), (then, then))


def test_runs_are_listed_in_start_order(recorded_run, tmp_path):
    first = recorded_run("b")
    workspace = first.workspace
    assert records.pipelines(workspace) == ["ctr"]
    assert records.pipelines(type(workspace)(str(workspace.root / "nowhere"))) == []
    make_old(workspace.root / "runs" / "ctr")
    summaries = Summaries(workspace, tmp_path)
    assert [run.run_id for run in summaries.of("ctr")] == ["b"]
    recorded_run("a")
    assert [run.run_id for run in summaries.of("ctr")] == ["b", "a"]


def test_cached_summaries_survive_a_restart_until_the_run_changes(recorded_run, tmp_path):
    run = recorded_run(until="train", error="out of memory")
    entries = run.workspace.root / "ledger" / "entries" / "ctr" / run.run_id
    make_old(run.folder / "run.json", run.folder / "stages", entries)
    (before,) = Summaries(run.workspace, tmp_path).of("ctr")
    assert (before.state, before.verdict) == ("failed", "")
    (cached,) = (tmp_path / "pages").iterdir()
    cached.write_text(cached.read_text().replace("failed at train", "as it was kept"))
    (again,) = Summaries(run.workspace, tmp_path).of("ctr")
    assert again.headline == "as it was kept"
    recorded_run()
    (after,) = Summaries(run.workspace, tmp_path).of("ctr")
    assert (after.state, after.verdict) == ("done", "better")
    assert after.cost.amount > before.cost.amount


def test_a_stored_summary_is_used_until_the_run_changes(recorded_run, tmp_path):
    run = recorded_run(until="train", error="out of memory")
    whole = Summaries(run.workspace, tmp_path / "one").of("ctr")
    Summaries(run.workspace, tmp_path / "two").keep(run)
    assert Summaries(run.workspace, tmp_path / "three").of("ctr") == whole
    # Only the run's own output is read, also where its records were copied to.
    left = run.folder / "summary.json"
    left.write_text(left.read_text().replace("failed at train", "as it was left"))
    copied = shutil.copytree(str(run.workspace.root), tmp_path / "copied")
    (again,) = Summaries(Workspace(str(copied)), tmp_path / "four").of("ctr")
    assert again.headline == "as it was left"
    recorded_run()
    (after,) = Summaries(run.workspace, tmp_path / "five").of("ctr")
    assert (after.state, after.verdict) == ("done", "better")
    left.write_text("{")
    assert Summaries(run.workspace, tmp_path / "six").of("ctr") == [after]


def test_late_costs_are_included_in_the_summary(recorded_run, tmp_path):
    run = recorded_run()
    Summaries(run.workspace, tmp_path / "one").keep(run)
    (before,) = Summaries(run.workspace, tmp_path / "two").of("ctr")
    record_stage_usage(
        run.workspace, pipeline="ctr", run_id=run.run_id, stage="train", attempt=9,
        usage=Usage(cpu_seconds=3600), started=run.head.started, state="killed",
    )  # fmt: skip
    (after,) = Summaries(run.workspace, tmp_path / "three").of("ctr")
    assert after.cost.amount > before.cost.amount


def test_a_damaged_summary_cache_is_rebuilt(recorded_run, tmp_path):
    run = recorded_run()
    entries = run.workspace.root / "ledger" / "entries" / "ctr" / run.run_id
    make_old(run.folder / "run.json", run.folder / "stages", entries)
    summaries = Summaries(run.workspace, tmp_path).of("ctr")
    (cached,) = (tmp_path / "pages").iterdir()
    cached.write_text(cached.read_text()[:-9])
    assert Summaries(run.workspace, tmp_path).of("ctr") == summaries


def test_a_new_attempt_is_shown_despite_a_cached_listing(recorded_run):
    run = recorded_run(until="train", error="out of memory")
    make_old(run.folder / "stages")
    assert RunView(run).state == "failed"
    recorded_run()
    assert [attempt.state for attempt in RunView(run).stage("train").attempts] == ["failed", "done"]
    assert RunView(run).state == "done"


def test_the_stamp_of_a_run_changes_with_its_records(recorded_run):
    run = recorded_run(until="train")

    def stamp():
        return records.stamp(run.workspace, "ctr", run.run_id)

    # However slow this machine is, its last change is new.
    ahead = time.time() + 60
    os.utime(str(run.folder / "stages"), (ahead, ahead))
    assert stamp() is None, "it is just changing"
    entries = run.workspace.root / "ledger" / "entries" / "ctr" / run.run_id
    watched = (run.folder / "run.json", run.folder / "stages", entries)
    make_old(*watched)
    before = stamp()
    assert before is not None
    assert stamp() == before
    os.utime(str(entries), (time.time() - 30, time.time() - 30))
    assert stamp() not in (None, before)


def test_costs_do_not_change_with_compaction(recorded_run):
    run = recorded_run()
    before = total(records.costs(run))
    assert before == total(Ledger(run.workspace).entries(run_id=run.run_id))
    assert Ledger(run.workspace).compact() > 1
    assert total(records.costs(run)) == before


def test_a_deleted_output_leaves_the_rest_of_the_page(recorded_run):
    run = recorded_run("deleted")
    shutil.rmtree(str(run.workspace.at(run.stage("evaluate").uri)))
    view = RunView(run)
    assert view.evaluation == {}
    assert view.stage("train").metrics["architecture"] == "dcn_v2"
