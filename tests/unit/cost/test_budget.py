"""Budgets: usage logs, projections, verdicts, and limits per run, day and month."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from emulator.installation import until
from nightbid.config.costs import Budget
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.budget import BudgetGuard, budget_status, limits_of, project, read_usage_log
from nightbid.cost.ledger import Ledger, record_stage_usage, total
from nightbid.cost.meter import ProcessMeter, cancel_marker
from nightbid.jobs.cost_poll import poll_stage
from nightbid.night.manifest import Usage
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)


def spend(workspace: Workspace, run_id: str, stage: str, hours: int, started: datetime) -> None:
    record_stage_usage(
        workspace,
        pipeline="p",
        run_id=run_id,
        stage=stage,
        attempt=1,
        usage=Usage(cpu_seconds=3600.0 * hours),
        started=started,
        state="done",
    )


def test_a_truncated_usage_line_does_not_hide_the_previous_one(tmp_path: Path) -> None:
    usage_log = tmp_path / "train.1.jsonl"
    assert read_usage_log(usage_log) is None
    line = json.dumps({"at": 5.0, "done": 0.25, "cpu_seconds": 2.0, "pid": 1})
    usage_log.write_text(line + "\n" + line[:20])
    point = read_usage_log(usage_log)
    assert point is not None
    assert (point.usage.cpu_seconds, point.done) == (2.0, 0.25)


def test_costs_are_projected_from_progress_or_past_runs() -> None:
    assert project(Decimal(2), 0.25) == 8
    assert project(Decimal(2), 0.0, [Decimal(3), Decimal(5), Decimal(9)]) == 5
    assert project(Decimal(7), 0.0, [Decimal(3)]) == 7
    assert project(Decimal(2), 0.0) == 2


@pytest.mark.parametrize(
    ("spent", "projected", "verdict"),
    [("7", "9", "ok"), ("8", "9", "warn"), ("5", "11", "warn"), ("10", "10", "warn"),
     ("10.01", "11", "over")],
)  # fmt: skip
def test_budget_status_is_ok_warn_or_over(spent: str, projected: str, verdict: str) -> None:
    assert budget_status(Decimal(10), Decimal(spent), Decimal(projected), 0.8) == verdict
    assert budget_status(None, Decimal(spent), Decimal(projected), 0.8) == "ok"


def test_each_limit_counts_only_costs_in_its_scope(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    spend(workspace, "r1", "train", 1, datetime(2026, 11, 2, tzinfo=UTC))
    spend(workspace, "r2", "train", 2, NOW)
    spend(workspace, "r3", "sample", 4, NOW)
    spend(workspace, "r0", "train", 8, datetime(2026, 10, 31, 23, tzinfo=UTC))
    budget = Budget(
        stage_usd={"train": Decimal(1)},
        run_usd=Decimal(2),
        day_usd=Decimal(3),
        month_usd=Decimal(4),
    )
    limits = limits_of(
        budget, workspace, pipeline="p", run_id="r3", stage="train", attempt=1, at=NOW
    )
    hours = {limit.name: limit.before_usd / Decimal("0.056") for limit in limits}
    assert hours == {"stage train": 0, "run r3": 4, "day 2026-11-23": 6, "month 2026-11": 7}
    reason = BudgetGuard(limits, NOW).passed(Decimal("2.9"))
    assert reason is not None
    assert reason.startswith("stage train has cost 2.9000 USD, over its limit of 1 USD")


def test_polling_a_stage_projects_costs_and_cancels_it_over_budget(tmp_path: Path) -> None:
    spec = PipelineSpec.model_construct(pipeline="p", features={})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, date(2026, 1, 8))
    budget = Budget(run_usd=Decimal("0.28"))
    assert poll_stage(run, budget, "train", 1) is None
    usage_log = run.usage_file("train", 1)

    def sample(hours: int, done: float) -> None:
        values = {"at": NOW.timestamp(), "done": done, "cpu_seconds": 3600.0 * hours}
        with usage_log.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

    polls = []
    for hours, done in ((1, 0.25), (1, 0.25), (3, 0.4), (6, 0.9)):
        sample(hours, done)
        poll = poll_stage(run, budget, "train", 1)
        assert poll is not None
        polls.append((poll.judgment, poll.projected_usd))
    assert [judgment for judgment, _ in polls] == ["ok", "ok", "warn", "over"]
    assert polls[0][1] == Decimal("0.224")
    assert "over its limit of 0.28 USD" in cancel_marker(usage_log).read_text()
    assert total(Ledger(run.workspace).entries()).amount == Decimal("0.336")


BURN = """
import subprocess, sys, time
from pathlib import Path

def burn(seconds):
    while time.process_time() < seconds:
        sum(range(1000))

def wait(name):
    while not Path(name).exists():
        time.sleep(0.02)
"""
PARENT = f"{BURN}\nsubprocess.Popen([sys.executable, '-c', sys.argv[1]])\nwait('parent may end')"
ORPHAN = (
    f"{BURN}\nburn(0.3)\nwait('orphan may end')\n"
    "Path('spent.tmp').write_text(str(time.process_time()))\nPath('spent.tmp').rename('spent')"
)


def children_seconds() -> float:
    """Return the CPU seconds of the ended children of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_the_meter_counts_running_finished_and_orphaned_children(tmp_path: Path) -> None:
    def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=tmp_path)

    def sampled() -> None:
        """Wait until the meter has begun and ended a sample."""
        for _ in range(2):
            now = datetime.now(UTC)
            until(lambda now=now: (new := read_usage_log(usage_log)) and new.at > now)

    start(f"{BURN}\nburn(0.2)").wait()  # before the meter: not counted
    usage_log = tmp_path / "t.jsonl"
    before = children_seconds() + time.process_time()
    with ProcessMeter(usage_log, every=0.05) as meter:
        start(f"{BURN}\nburn(0.2)").wait()
        running = start(f"{BURN}\nburn(0.25)")
        parent = start(PARENT, ORPHAN)
        running.wait()
        # The meter sees the orphan before and after the end of its parent.
        sampled()
        (tmp_path / "parent may end").touch()
        parent.wait()
        sampled()
        (tmp_path / "orphan may end").touch()
        until((tmp_path / "spent").exists)
        sampled()
        (tmp_path / "out").write_bytes(b"x" * 1_000_000)
    orphan = float((tmp_path / "spent").read_text())
    spent = children_seconds() + time.process_time() - before + orphan
    # The system counts in steps of 10 ms per process.
    assert meter.usage.cpu_seconds == pytest.approx(spent, abs=0.2)
    assert spent > 0.75
    assert meter.usage.gb_seconds > 0
    assert meter.usage.bytes_written >= 1_000_000
    point = read_usage_log(tmp_path / "t.jsonl")
    assert point is not None
    assert point.usage == meter.usage
