"""A managed training costs exactly its machines from start to end, however it ends."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud import aiplatform_v1 as vertex
from hypothesis import given
from hypothesis import strategies as st
from nightbid.config.costs import Budget
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.budget import BudgetGuard, BudgetLimit
from nightbid.cost.ledger import Ledger, record_stage_usage, total
from nightbid.cost.price_book import Discount, PriceBook, default_book
from nightbid.errors import PriceError
from nightbid.jobs.cost_watch import JobNote, JobWatch, note_job, noted_jobs
from nightbid.jobs.meter import MeteredJob
from nightbid.jobs.vertex_meter import (
    MachinePool,
    TrainingMeter,
    connect,
    hourly_usd,
    pools_of,
    resources_of,
    training_usage,
)
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

START = datetime(2026, 11, 23, 2, tzinfo=UTC)
SPEC = vertex.CustomJobSpec(
    worker_pool_specs=[
        {
            "machine_spec": {"machine_type": "n1-standard-4"},
            "replica_count": 1,
        },
        {
            "machine_spec": {
                "machine_type": "n1-standard-8",
                "accelerator_type": "NVIDIA_TESLA_T4",
                "accelerator_count": 2,
            },
            "replica_count": 3,
            "disk_spec": {"boot_disk_type": "pd-ssd", "boot_disk_size_gb": 200},
        },
    ]
)
HOURLY = (
    Decimal("0.21849885") + 3 * Decimal("0.4369977") + 6 * Decimal("0.4025")
    + 700 * Decimal("0.000267808")
)  # fmt: skip
BILL = (HOURLY * 2).quantize(Decimal("0.01"))
"""Cost of two hours, in USD."""


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.minutes = 0.0

    def __call__(self) -> datetime:
        return START + timedelta(minutes=self.minutes)


def meter(
    service: Any, tmp_path: Path, clock: Clock, limit: str = "1000", timeout: float = 60
) -> TrainingMeter:
    service.spec = SPEC
    job = MeteredJob("project", "us-central1", "77", "ctr", "ctr-1", "train", 1)
    guard = BudgetGuard([BudgetLimit("run ctr-1", Decimal(limit), Decimal(0))], START)
    client = connect("us-central1", service.endpoint)
    return TrainingMeter(job, Workspace(str(tmp_path)), client, guard, timeout=timeout, now=clock)


def bill(tmp_path: Path) -> Decimal:
    return total(Ledger(Workspace(str(tmp_path))).entries()).cents()


ENDED = START + timedelta(hours=2)


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_job_is_billed_from_start_to_end_whatever_its_end_state(
    training_service: Any, tmp_path: Path, moment: Any, end: str
) -> None:
    clock = Clock()
    training_service.answers = [
        moment("PENDING"),
        moment("RUNNING", START),
        moment("RUNNING", START),
        moment(end, START, ENDED),
    ]
    job = meter(training_service, tmp_path, clock)
    assert job.poll().spent_usd == 0, "waiting for machines costs nothing"
    for minutes in (30, 119.9):
        clock.minutes = minutes
        seen = job.poll()
        assert Decimal(0) < seen.spent_usd < HOURLY * 2
    final = job.poll()
    assert (final.state, final.ended, final.final) == (end, True, True)
    assert bill(tmp_path) == BILL
    states = {entry.state for entry in Ledger(Workspace(str(tmp_path))).entries()}
    assert states == {end.lower()}


def test_disordered_answers_and_restarted_meters_count_no_cost_twice(
    training_service: Any, tmp_path: Path, moment: Any, fault: Any
) -> None:
    clock = Clock()
    training_service.answers = [
        fault(grpc.StatusCode.UNAVAILABLE, "try later"),
        moment("RUNNING", START),
        fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded"),
        fault(None, delay=4.0),
        moment("PENDING"),
        moment("RUNNING", START),
        moment("SUCCEEDED", START),
        moment("SUCCEEDED", START, ENDED),
    ]
    troubles = []
    for minutes in (0, 60, 61, 62, 63, 119, 121, 122, 400):
        clock.minutes = minutes
        # Only the fourth response comes too late.
        timeout = 2 if minutes == 62 else 60
        seen = meter(training_service, tmp_path, clock, timeout=timeout).poll()
        troubles.append(seen.trouble)
    assert [bool(trouble) for trouble in troubles] == [
        True,
        False,
        True,
        True,
        *[False] * 2,
        True,
    ] + [False] * 2
    assert "Quota exceeded" in troubles[2]
    assert "DeadlineExceeded" in troubles[3]
    assert "no end time yet" in troubles[6]
    assert bill(tmp_path) == BILL


def test_a_vanished_job_costs_its_last_known_usage(
    training_service: Any, tmp_path: Path, moment: Any, fault: Any
) -> None:
    clock = Clock()
    training_service.answers = [
        moment("RUNNING", START),
        fault(grpc.StatusCode.NOT_FOUND, "no such job"),
    ]
    job = meter(training_service, tmp_path, clock)
    clock.minutes = 120 + 1 / 6  # a margin of two hours for clock differences
    job.poll()
    assert job.poll().state == "VANISHED"
    assert bill(tmp_path) == BILL


def test_a_job_that_never_got_machines_is_free_and_final(
    training_service: Any, tmp_path: Path, moment: Any
) -> None:
    training_service.answers = [moment("FAILED", None, ENDED)]
    assert meter(training_service, tmp_path, Clock()).poll().final
    assert bill(tmp_path) == 0


def test_training_over_its_limit_is_canceled_when_the_first_cancel_fails(
    training_service: Any, tmp_path: Path, moment: Any, fault: Any
) -> None:
    clock = Clock()
    training_service.answers = [moment("RUNNING", START)]
    training_service.cancel_faults = [fault(grpc.StatusCode.UNAVAILABLE, "busy")]
    job = meter(training_service, tmp_path, clock, limit="1")
    clock.minutes = 1
    assert job.poll().judgment == "ok"
    clock.minutes = 20
    over = job.poll()
    assert "over its limit of 1 USD" in over.reason
    assert "cancel: ServiceUnavailable" in over.trouble
    assert job.poll().cancelled
    assert training_service.cancelled_after == 3, "over at the second answer"


def test_watch_of_a_night_cancels_and_settles_a_training_over_budget(
    training_service: Any, tmp_path: Path, moment: Any
) -> None:
    training_service.spec = SPEC
    now = datetime.now(UTC)
    training_service.answers = [
        moment("RUNNING", now - timedelta(minutes=5)),
        moment("RUNNING", now - timedelta(hours=1)),
        moment("CANCELLED", now - timedelta(hours=1), now),
    ]
    spec = PipelineSpec.model_construct(pipeline="ctr", features={})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, date(2026, 1, 8))
    note = JobNote(
        stage="train",
        attempt=1,
        project="project",
        location="us-central1",
        job_id="77",
        started=now,
        service="vertex_training",
        endpoint=training_service.endpoint,
    )
    note_job(run, note)
    # Attempt 2 resumes the job, whose cost stays with attempt 1 and is entered once.
    note_job(run, note.model_copy(update={"attempt": 2}))
    assert [job.attempt for job in noted_jobs(run)] == [1]
    # The job's measured usage replaces the stage's own record of the job.
    record_stage_usage(
        run.workspace, pipeline="ctr", run_id=run.run_id, stage="train", attempt=1,
        usage=training_usage(pools_of(vertex.CustomJob(job_spec=SPEC)), 3600), started=now,
        state="done", service="dataflow_batch",
    )  # fmt: skip
    watch = JobWatch(run, Budget(run_usd=Decimal(1)))
    judgments = []
    while seen := watch.poll():
        (poll,) = seen.values()
        judgments.append((poll.judgment, poll.cancelled))
    assert judgments == [("ok", False), ("over", True), ("over", True)]
    assert training_service.cancelled_after == 2
    assert noted_jobs(run)[0].settled
    assert total(Ledger(run.workspace).entries()).cents() == HOURLY.quantize(Decimal("0.01"))


def test_hourly_price_covers_all_pools_and_rejects_unknown_resources() -> None:
    day = START.date()
    pools = pools_of(vertex.CustomJob(job_spec=SPEC))
    assert hourly_usd(pools, at=day).amount == HOURLY
    with pytest.raises(PriceError, match=r"no price for vertex_training\.m9-huge_hour"):
        hourly_usd([MachinePool("m9-huge")], at=day)
    with pytest.raises(PriceError, match=r"no multiplier for dws on vertex_training"):
        hourly_usd(pools, option="dws", at=day)
    # The price of these machines includes their accelerators.
    inclusive = resources_of([MachinePool("a2-highgpu-1g", 2, "NVIDIA_TESLA_A100", 1)], 3600)
    assert inclusive == {"a2-highgpu-1g_hour": 2, "pd-ssd_gb_hour": 200}


def test_spot_multiplier_discounts_only_the_machines() -> None:
    discount = Discount(
        service="vertex_training",
        multiplier=Decimal("0.4"),
        reason="spot",
        option="spot",
        resources=("n1-standard-4_hour",),
        valid_from=date(2026, 1, 1),
        valid_until=date(2026, 12, 31),
    )
    book = PriceBook.model_validate(
        default_book().model_dump() | {"discounts": [discount.model_dump()]}
    )
    pools = [MachinePool("n1-standard-4")]
    listed = hourly_usd(pools, at=START.date(), book=book).amount
    spot = hourly_usd(pools, option="spot", at=START.date(), book=book).amount
    assert listed - spot == Decimal("0.21849885") * Decimal("0.6")


pool = st.builds(
    MachinePool,
    machine_type=st.sampled_from(["n1-standard-4", "n1-standard-8"]),
    replicas=st.integers(1, 9),
    accelerator_type=st.sampled_from(["", "NVIDIA_TESLA_T4"]),
    accelerators=st.integers(0, 8),
    disk_gb=st.integers(10, 1000),
)


@given(st.lists(pool, max_size=4), st.lists(pool, max_size=4), st.lists(st.integers(0, 9**6)))
def test_costs_add_up_over_pools_and_times(
    a: list[MachinePool], b: list[MachinePool], parts: list[int]
) -> None:
    def together(*many: dict[str, Decimal]) -> dict[str, Decimal]:
        names = {name for amounts in many for name in amounts}
        return {
            name: round(sum((amounts.get(name, Decimal(0)) for amounts in many), Decimal(0)), 12)
            for name in names
        }

    whole = together(resources_of([*a, *b], sum(parts)))
    by_pool = together(resources_of(a, sum(parts)), resources_of(b, sum(parts)))
    by_time = together(*(resources_of([*a, *b], part) for part in parts))
    assert whole == by_pool == by_time
