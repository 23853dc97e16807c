"""Records are read once, and yet nothing that was written since is missed."""

from __future__ import annotations

import os
import shutil
import time

from nightbid.cost.ledger import Ledger, total
from nightbid.report import records
from nightbid.report.view import RunView


def aged(*folders) -> None:
    """Make folders look as if nothing happened to them for a minute."""
    then = time.time() - 60
    for folder in folders:
        os.utime(str(folder), (then, then))


def test_runs_are_listed_in_the_order_they_were_started(recorded_run):
    first = recorded_run("b")
    workspace = first.workspace
    assert records.pipelines(workspace) == ["ctr"]
    assert records.pipelines(type(workspace)(str(workspace.root / "nowhere"))) == []
    aged(workspace.root / "runs" / "ctr")
    assert [run.run_id for run in records.runs(workspace, "ctr")] == ["b"]
    recorded_run("a")
    assert [run.run_id for run in records.runs(workspace, "ctr")] == ["b", "a"]


def test_a_new_attempt_is_seen_though_the_listing_was_kept(recorded_run):
    run = recorded_run(until="train", error="out of memory")
    aged(run.folder / "stages")
    assert RunView(run).state == "failed"
    recorded_run()
    assert [each.state for each in RunView(run).stage("train").attempts] == ["failed", "done"]
    assert RunView(run).state == "done"


def test_a_stamp_changes_with_whatever_a_page_shows(recorded_run):
    run = recorded_run(until="train")
    assert records.stamp(run) is None, "it is just changing"
    entries = run.workspace.root / "ledger" / "entries" / "ctr" / run.run_id
    watched = (run.folder / "run.json", run.folder / "stages", entries)
    aged(*watched)
    before = records.stamp(run)
    assert before is not None
    assert records.stamp(run) == before
    os.utime(str(entries), (time.time() - 30, time.time() - 30))
    assert records.stamp(run) not in (None, before)


def test_costs_are_the_same_after_compaction(recorded_run):
    run = recorded_run()
    before = total(records.costs(run))
    assert before == total(Ledger(run.workspace).entries(run_id=run.run_id))
    assert Ledger(run.workspace).compact() > 1
    assert total(records.costs(run)) == before


def test_an_output_that_was_deleted_leaves_the_rest_of_the_page(recorded_run):
    run = recorded_run("deleted")
    shutil.rmtree(str(run.workspace.at(run.stage("evaluate").uri)))
    view = RunView(run)
    assert view.evaluation == {}
    assert view.stage("train").metrics["architecture"] == "dcn_v2"
