"""Any watcher finds the jobs of a run, stops them over budget and enters their cost once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
from nightbid.config.costs import Budget
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.ledger import Ledger, record_stage_usage, total
from nightbid.jobs.cost_watch import JobNote, JobWatch, note_job, noted_jobs
from nightbid.night.manifest import Usage
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

STARTED = datetime(2026, 11, 23, 2, tzinfo=UTC)
RUNAWAY = [(("TotalVcpuTime", 3600.0 * hours), ("TotalMemoryUsage", 1.0)) for hours in (1, 9, 9, 9)]


def begin(tmp_path: Path, service: Any) -> RunRecord:
    spec = PipelineSpec.model_construct(pipeline="ctr", features={})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, date(2026, 1, 8))
    note_job(
        run,
        JobNote(
            stage="featurize",
            attempt=1,
            project="project",
            location="us-central1",
            job_id="job-1",
            started=STARTED,
            endpoint=service.endpoint,
        ),
    )
    return run


def test_restarted_watches_cancel_a_runaway_job_within_two_polls(
    dataflow_service: Any, tmp_path: Path
) -> None:
    dataflow_service.metrics = list(RUNAWAY)
    run = begin(tmp_path, dataflow_service)
    budget = Budget(day_usd=Decimal("0.5"))
    (first,) = JobWatch(run, budget).poll().values()
    assert first.judgment == "ok"
    (second,) = JobWatch(run, budget).poll().values()
    assert "day 2026-11-23 has cost 0.5040 USD, over its limit of 0.5 USD" in second.reason
    assert dataflow_service.cancelled_after == 2
    assert total(Ledger(run.workspace).entries()).cents() == Decimal("0.50")


def test_other_spending_of_the_day_counts_against_a_running_job(
    dataflow_service: Any, tmp_path: Path
) -> None:
    dataflow_service.metrics = [RUNAWAY[0]]
    run = begin(tmp_path, dataflow_service)
    watch = JobWatch(run, Budget(day_usd=Decimal("0.5")))
    assert [seen.judgment for seen in watch.poll().values()] == ["ok"]
    record_stage_usage(
        run.workspace, pipeline="ctr", run_id="ctr-other", stage="train", attempt=1,
        usage=Usage(cpu_seconds=3600 * 8), started=STARTED, state="running",
    )  # fmt: skip
    assert [seen.judgment for seen in watch.poll().values()] == ["over"]


def test_watch_warns_early_when_an_earlier_run_of_the_stage_cost_too_much(
    dataflow_service: Any, tmp_path: Path
) -> None:
    dataflow_service.metrics = [RUNAWAY[0]]
    run = begin(tmp_path, dataflow_service)
    record_stage_usage(
        run.workspace, pipeline="ctr", run_id="ctr-before", stage="featurize", attempt=1,
        usage=Usage(cpu_seconds=3600 * 8), started=STARTED, state="done",
    )  # fmt: skip
    (seen,) = JobWatch(run, Budget(run_usd=Decimal("0.3"))).poll().values()
    assert (seen.judgment, seen.projected_usd) == ("warn", Decimal("0.448"))
    assert "0.4480 USD expected" in seen.reason


def test_watch_polls_an_ended_job_only_until_its_metrics_are_stable(
    dataflow_service: Any, tmp_path: Path
) -> None:
    dataflow_service.states = ["DONE"]
    dataflow_service.metrics = [(), RUNAWAY[0], RUNAWAY[1], RUNAWAY[1]]
    run = begin(tmp_path, dataflow_service)
    watch = JobWatch(run, Budget(), quiet_polls=2)
    polls = 0
    while watch.poll():
        polls += 1
    assert polls == 5, "nothing, half, whole, and two answers without news"
    assert noted_jobs(run)[0].settled
    calls = dataflow_service.metric_calls
    assert JobWatch(run, Budget()).poll() == {}
    assert dataflow_service.metric_calls == calls
    assert total(Ledger(run.workspace).entries()).cents() == Decimal("0.50")


def test_watch_stops_polling_a_vanished_job_after_the_poll_limit(
    dataflow_service: Any, tmp_path: Path, fault: Any
) -> None:
    dataflow_service.states = [fault(grpc.StatusCode.NOT_FOUND, "no such job")]
    run = begin(tmp_path, dataflow_service)
    watch = JobWatch(run, Budget(), patience_polls=4)
    polls = 0
    while watch.poll():
        polls += 1
    assert polls == 4
