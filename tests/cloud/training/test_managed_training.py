"""The training stage as a custom job: one job whatever fails, it ends on command, costs entered."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import grpc
import pytest
from emulator.training import Training, until
from nightbid.attempt import begin_stage, run_stage
from nightbid.cost.ledger import Ledger, total
from nightbid.errors import BudgetExceeded, ConfigError, NightbidError, ServiceError
from nightbid.nightly import NIGHT
from nightbid.remote.jobs import Away
from nightbid.remote.orders import cancel, open_order
from nightbid.remote.wait import settle
from nightbid.stage import StageResult

STAGES = {stage.name: stage for stage in NIGHT}
TRAIN = STAGES["train"]
Trained = Any
"""See the fixture `trained`."""


def begin(made: Trained) -> StageResult | Away:
    return begin_stage(TRAIN, made.spec, made.run, cache_folder=made.cache)


def spent(made: Trained) -> Decimal:
    entries = Ledger(made.run.workspace).entries(pipeline="small", run_id=made.run.run_id)
    return total(each for each in entries if each.service == "vertex_training").amount


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
def test_nothing_is_submitted_twice(trained, service: Training, after: bool) -> None:
    service.queued_seconds = 60
    made = trained()
    service.fail("CreateCustomJob", grpc.StatusCode.UNAVAILABLE, after=after)
    away = begin(made)
    assert isinstance(away, Away)
    again = begin(made)
    assert isinstance(again, Away)
    assert again.order.job_id == away.order.job_id
    assert len(service.jobs) == 1
    cancel(made.run, away.order, away.service)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServiceError, "quota"),
        (grpc.StatusCode.PERMISSION_DENIED, ConfigError, "roles"),
        (grpc.StatusCode.INVALID_ARGUMENT, ConfigError, "cloud.training"),
        (grpc.StatusCode.INTERNAL, ServiceError, "rerun"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(
    trained, service: Training, code: grpc.StatusCode, kind: type[NightbidError], said: str
) -> None:
    made = trained()
    service.fail("CreateCustomJob", code, times=99)
    with pytest.raises(kind, match=said) as caught:
        begin(made)
    assert "\n" not in str(caught.value)
    assert not service.jobs
    assert open_order(made.run, "train", "") is None
    assert made.run.stage("train").state == "failed"


def test_a_job_is_cancelled_by_a_person_and_by_its_budget(trained, service: Training) -> None:
    made = trained(epochs=500, patience=500)
    away = begin(made)
    assert isinstance(away, Away)
    (job,) = service.jobs.values()
    until(lambda: bool(job.processes))
    cancel(made.run, away.order, away.service)
    until(lambda: bool(job.job.end_time))
    assert all(each.poll() is not None for each in job.processes)

    poor = trained(epochs=500, patience=500, budget={"stage_usd": {"train": "0.0001"}})
    with pytest.raises(BudgetExceeded, match="stage train"):
        run_stage(TRAIN, poor.spec, poor.run, cache_folder=poor.cache)
    assert [each.job.state.name for each in service.jobs.values()] == ["JOB_STATE_CANCELLED"] * 2
    settle(poor.run)
    assert spent(poor) > Decimal("0.0001")


def test_a_service_that_is_silent_for_a_while(trained, service: Training) -> None:
    service.queued_seconds = 60
    made = trained()
    away = begin(made)
    assert isinstance(away, Away)
    service.fail("GetCustomJob", grpc.StatusCode.UNAVAILABLE, times=3)
    assert away.service.look(away.order.job_id).state == "waiting"
    service.fail("CancelCustomJob", grpc.StatusCode.INTERNAL)
    cancel(made.run, away.order, away.service)
    until(lambda: away.service.look(away.order.job_id).state == "cancelled")


def test_the_image_must_hold_the_code_that_ordered(trained, service: Training) -> None:
    from nightbid.plan import library_versions
    from nightbid.training.job import Fit
    from nightbid.training.managed import TrainingOrder, check_image

    spec = trained().spec
    fit = Fit(model=spec.model, train=spec.train, label=spec.label, seed=0)
    order = TrainingOrder(
        **fit.model_dump(), stage="train", featurized="", output="", checkpoints="",
        code_digest="other", versions={"numpy": library_versions()["numpy"]},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"other code than the one that ordered.*build the image"):
        check_image(order)
