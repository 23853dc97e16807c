"""A DAG run becomes a request for a night."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import pytest
from airflow.exceptions import ParamValidationError
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.night.record import RunRecord
from nightbid.report.pages import run_document
from nightbid.report.run_view import RunView
from nightbid.storage.workspace import Workspace
from nightbid_airflow.request import NightRequest, form

UTC = dt.UTC


@dataclass
class Run:
    run_id: str = "scheduled__2026-01-09T03:00:00+00:00"
    run_after: dt.datetime = dt.datetime(2026, 1, 9, 3, tzinfo=UTC)
    data_interval_end: dt.datetime | None = None


def test_scheduled_run_has_the_date_before_its_interval_ends() -> None:
    # A backfill runs long after its night.
    run = Run(
        run_after=dt.datetime(2026, 3, 1, tzinfo=UTC),
        data_interval_end=dt.datetime(2026, 1, 9, 3, tzinfo=UTC),
    )
    assert NightRequest.of("ctr", run, {}).date == dt.date(2026, 1, 8)


def test_manual_run_defaults_to_the_day_before_in_utc() -> None:
    tokyo = dt.timezone(dt.timedelta(hours=9))
    run = Run(run_after=dt.datetime(2026, 1, 9, 3, tzinfo=tokyo))
    assert NightRequest.of("ctr", run, {"date": None}).date == dt.date(2026, 1, 7)


def test_date_of_the_form_overrides_the_default_date() -> None:
    assert NightRequest.of("ctr", Run(), {"date": "2026-01-05"}).date == dt.date(2026, 1, 5)


def test_form_values_override_the_pipeline(pipelines) -> None:
    pipelines()
    answers = {
        "date": "2026-01-05",
        "train_days": 3,
        "architecture": "logistic_regression",
        "budget_usd": 0.25,
        "overrides": ["train.batch_size=64"],
    }
    spec, record = NightRequest.of("small", Run(), answers).open(Settings())
    assert spec.window.train_days == 3
    assert spec.model.architecture == "logistic_regression"
    assert str(spec.budget.run_usd) == "0.25"
    assert spec.train.batch_size == 64
    assert record.date == dt.date(2026, 1, 5)
    assert record.head.trigger == "airflow"
    assert record.run_id == "scheduled__2026-01-09T03-00-00-00-00"


def test_override_of_an_unknown_key_is_named_in_the_error(pipelines) -> None:
    pipelines()
    with pytest.raises(ConfigError, match=r"train\.learning_rat"):
        NightRequest.of("small", Run(), {"overrides": ["train.learning_rat=1"]}).open(Settings())


def test_an_unknown_key_of_the_configuration_is_refused(pipelines) -> None:
    pipelines()
    misspelled = NightRequest.of("small", Run(), {"dates": "2026-01-05", "overrides": []})
    with pytest.raises(ConfigError, match=r"unknown key 'dates' → did you mean 'date'\?"):
        misspelled.open(Settings())


def test_error_about_an_hourly_window_names_the_field_of_the_form(pipelines) -> None:
    pipelines(
        source={"kind": "simulator", "partition": "hour"},
        window={"train_hours": 24, "validate_hours": 3, "evaluate_hours": 3},
    )
    with pytest.raises(ConfigError, match=r"window\.train_hours: must be .* 3660, got 5000"):
        NightRequest.of("small", Run(), {"train_hours": 5000}).open(Settings())


def test_refused_request_shows_as_a_failed_run_until_it_is_corrected(pipelines) -> None:
    pipelines()
    wrong = NightRequest.of("small", Run(), {"overrides": ["train.learning_rat=1"]})
    with pytest.raises(ConfigError):
        wrong.open(Settings())
    workspace = Workspace(Settings().workspace)
    view = RunView(RunRecord.load(workspace, "small", "scheduled__2026-01-09T03-00-00-00-00"))
    assert (view.state, view.stages[0].name) == ("failed", "request")
    assert "train.learning_rat" in run_document(view.run)
    _, record = NightRequest.of("small", Run(), {}).open(Settings())
    assert RunView(record).state == "running"


def test_form_rejects_a_misspelled_block_or_architecture() -> None:
    fields = form(PipelineSpec(pipeline="small", features={"a": {"column": "a"}}))
    for name, value in {"overrides": ["trian.epochs=1"], "architecture": "dcn_v3"}.items():
        with pytest.raises(ParamValidationError):
            fields[name].resolve(value)
    assert fields["overrides"].resolve(["train.epochs=1"]) == ["train.epochs=1"]
