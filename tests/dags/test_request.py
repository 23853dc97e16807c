"""From a DAG run to the night it asks for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import pytest
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid_airflow.request import Request

UTC = dt.UTC


@dataclass
class Run:
    run_id: str = "scheduled__2026-01-09T03:00:00+00:00"
    run_after: dt.datetime = dt.datetime(2026, 1, 9, 3, tzinfo=UTC)
    data_interval_end: dt.datetime | None = None


def test_a_scheduled_run_is_of_the_day_before_its_interval_ends() -> None:
    # A backfill is run long after the night that it is of.
    run = Run(
        run_after=dt.datetime(2026, 3, 1, tzinfo=UTC),
        data_interval_end=dt.datetime(2026, 1, 9, 3, tzinfo=UTC),
    )
    assert Request.of("ctr", run, {}).date == dt.date(2026, 1, 8)


def test_a_run_by_hand_is_of_the_day_before_in_utc() -> None:
    tokyo = dt.timezone(dt.timedelta(hours=9))
    run = Run(run_after=dt.datetime(2026, 1, 9, 3, tzinfo=tokyo))
    assert Request.of("ctr", run, {"date": None}).date == dt.date(2026, 1, 7)


def test_a_date_that_is_given_wins() -> None:
    assert Request.of("ctr", Run(), {"date": "2026-01-05"}).date == dt.date(2026, 1, 5)


def test_the_form_becomes_overrides_of_the_pipeline(pipelines) -> None:
    pipelines()
    asked = {
        "date": "2026-01-05",
        "train_days": 3,
        "architecture": "logistic_regression",
        "budget_usd": 0.25,
        "overrides": ["train.batch_size=64"],
    }
    spec, record = Request.of("small", Run(), asked).open(Settings())
    assert spec.window.train_days == 3
    assert spec.model.architecture == "logistic_regression"
    assert str(spec.budget.run_usd) == "0.25"
    assert spec.train.batch_size == 64
    assert record.date == dt.date(2026, 1, 5)
    assert record.head.trigger == "airflow"
    assert record.run_id == "scheduled__2026-01-09T03-00-00-00-00"


def test_an_override_that_does_not_exist_is_named(pipelines) -> None:
    pipelines()
    with pytest.raises(ConfigError, match=r"train\.learning_rat"):
        Request.of("small", Run(), {"overrides": ["train.learning_rat=1"]}).open(Settings())
