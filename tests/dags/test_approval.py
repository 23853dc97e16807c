"""The question before a promotion times out correctly when the system clock changes."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput, TaskDeferred
from nightbid.clock import moment
from nightbid.config.pipeline import PipelineSpec
from nightbid.night.attempts import APPROVE
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace
from nightbid_airflow.approval import ASKED, EarlierAnswer, PromotionApproval

HOURS = 20
LATE = {"error": "The timeout has passed", "error_type": "timeout"}


class Asked:
    """A run that has asked for approval."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NIGHTBID_WORKSPACE", str(folder))
        # The test has no Airflow database.
        monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **_: None)
        spec = PipelineSpec.model_validate(
            {"pipeline": "small", "features": {"a": {"column": "a"}}}
        )
        self.run = RunRecord.start(
            Workspace(str(folder)), spec, dt.date(2026, 1, 8), run_id="manual__1"
        )
        ti = SimpleNamespace(id="1", try_number=1, max_tries=0)
        self.context = {"dag_run": SimpleNamespace(run_id="manual__1"), "ti": ti,
                        "task_instance": ti}  # fmt: skip
        self.task = PromotionApproval(task_id="approve", pipeline="small", hours=HOURS)
        with pytest.raises(TaskAwaitingInput):
            self.task.execute(self.context)

    def try_again(self, try_number: int = 2, max_tries: int = 0) -> None:
        self.context["ti"].try_number, self.context["ti"].max_tries = try_number, max_tries
        self.task.execute(self.context)

    def answer(self, option: str, person: str) -> None:
        user = {"id": person, "name": person}
        event = {"chosen_options": [option], "params_input": {}, "responded_by_user": user}
        now = dt.datetime.now(dt.UTC)
        self.task.execute_complete(self.context, {**event, "responded_at": now})

    def put_hours_ago(self, hours: float, boot: str = "") -> None:
        at = moment()
        at["seconds"] -= 3600 * hours
        (self.run.folder / ASKED).write_text(json.dumps({**at, **({"boot": boot} if boot else {})}))


def test_approval_keeps_its_remaining_time_when_the_clock_jumps_ahead(
    tmp_path, monkeypatch, caplog
) -> None:
    question = Asked(tmp_path, monkeypatch)
    question.put_hours_ago(5)
    with pytest.raises(TaskAwaitingInput) as again:
        question.task.execute_complete(question.context, LATE)
    assert abs(again.value.timeout - dt.timedelta(hours=15)) < dt.timedelta(minutes=30)
    assert question.run.newest(APPROVE) is None


@pytest.mark.parametrize(("hours", "boot"), [(20, ""), (19.99, ""), (1, "another machine")])
def test_approval_times_out_without_an_answer(tmp_path, monkeypatch, hours, boot) -> None:
    question = Asked(tmp_path, monkeypatch)
    question.put_hours_ago(hours, boot)
    with pytest.raises(AirflowFailException, match="no answer in 20 hours"):
        question.task.execute_complete(question.context, LATE)
    answer = question.run.newest(APPROVE)
    assert answer is not None
    assert (answer.state, answer.summary) == ("stopped", "not promoted: no answer in 20 hours")


def test_retried_approval_checks_for_an_earlier_answer_before_asking(tmp_path, monkeypatch) -> None:
    question = Asked(tmp_path, monkeypatch)
    with pytest.raises(TaskDeferred) as looks:
        question.try_again()
    path, arguments = looks.value.trigger.serialize()
    assert path == f"{EarlierAnswer.__module__}.{EarlierAnswer.__name__}"
    assert EarlierAnswer(**arguments).ti_id == "1"
    take = getattr(question.task, looks.value.method_name)
    with pytest.raises(TaskAwaitingInput):
        take(question.context, LATE)
    assert question.run.newest(APPROVE) is None
    answer = {"chosen_options": ["Approve"], "params_input": {},
              "responded_by_user": {"id": "ann", "name": "ann"},
              "responded_at": dt.datetime.now(dt.UTC)}  # fmt: skip
    take(question.context, answer)
    assert question.run.newest(APPROVE).summary == "approved by ann"


def test_cleared_approval_asks_again(tmp_path, monkeypatch) -> None:
    question = Asked(tmp_path, monkeypatch)
    with pytest.raises(TaskAwaitingInput):
        question.try_again(max_tries=1)


def test_retry_of_a_cleared_approval_uses_the_answer_given_since_the_clear(
    tmp_path, monkeypatch
) -> None:
    question = Asked(tmp_path, monkeypatch)
    with suppress(Exception):  # what Airflow does with a rejection needs its database
        question.answer("Reject", "ann")
    assert question.run.newest(APPROVE).summary == "not promoted: rejected by ann"
    with pytest.raises(TaskAwaitingInput):
        question.try_again(2, max_tries=1)
    # Airflow lost the process that asked, and keeps an answer, if there is one.
    with pytest.raises(TaskDeferred) as looks:
        question.try_again(3, max_tries=1)
    assert isinstance(looks.value.trigger, EarlierAnswer)
    question.answer("Approve", "bob")
    question.try_again(3, max_tries=1)
    assert question.run.newest(APPROVE).summary == "approved by bob"


def test_cleared_approval_that_ended_before_it_asked_takes_no_answer_from_before_the_clear(
    tmp_path, monkeypatch
) -> None:
    question = Asked(tmp_path, monkeypatch)
    question.answer("Approve", "ann")
    with pytest.raises(TaskAwaitingInput):
        question.try_again(3, max_tries=1)
