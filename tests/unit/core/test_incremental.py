"""The records of earlier nights decide which state an incremental night continues from."""

from __future__ import annotations

import datetime as dt

import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.head import write_head
from nightbid.night.incremental import DayDecision, continuation, decide
from nightbid.night.record import RunRecord

NIGHT = dt.date(2026, 1, 20)
LEARNED = {
    "days": ["2026-01-17", "2026-01-18"], "fresh": ["2026-01-18"], "nights": 1,
    "full_night": "2026-01-19", "batch_size": 128,
}  # fmt: skip
TRAIN = {"mode": "incremental"}


@pytest.fixture
def record_night(recorded_run):
    """Return a function that records a night and tells why the next one trains in full."""

    def record(learned=LEARNED, **metrics):
        known = {"train": {"incremental": learned} if learned else {}, **metrics}
        run = recorded_run(metrics=known, train=TRAIN)

        def why_full(**changes):
            spec = PipelineSpec.model_validate({**run.head.spec, **changes})
            tonight = RunRecord.start(run.workspace, spec, NIGHT + dt.timedelta(days=1))
            stage_input = continuation(tonight, spec, "train")
            assert bool(stage_input.uri) == (not stage_input.continuation.why_full)
            return stage_input.continuation.why_full

        return run, why_full

    return record


def test_training_continues_from_a_night_that_passed(record_night):
    run, why_full = record_night()
    assert why_full() == ""
    assert why_full(train={**TRAIN, "full_every": 2}) == "every 2 nights"
    assert why_full(train={**TRAIN, "learning_rate": 0.1}).startswith(
        "`train.learning_rate` has changed"
    )
    assert why_full(label={"column": "other"}).startswith("`label` has changed")
    assert why_full(columns={"anonymous": ["-"]}).startswith("`columns` has changed")
    roles = {role: column for role, column in run.head.spec["columns"].items()
             if role != "anonymous"}  # fmt: skip
    older = run.head.model_copy(update={"spec": {**run.head.spec, "columns": roles}})
    write_head(run.folder, older, run.head)
    assert why_full() == ""
    ended = run.stage("gate_model").model_copy(update={"state": "stopped"})
    run.record(StageRecord.model_validate(ended.model_dump()))
    assert why_full() == f"gate_model stopped the night of {NIGHT}"


def test_training_restarts_after_a_night_that_was_worse_than_the_champion(record_night):
    _, why_full = record_night(evaluate={"verdict": "worse", "reference": "champion"})
    assert why_full() == f"the night of {NIGHT} was worse than the champion"


def test_training_restarts_after_a_rolled_back_champion(record_night):
    run, why_full = record_night()
    pointer = ChampionPointer(run.workspace, "ctr")
    for number, run_id in ((1, "the night before"), (2, run.run_id)):
        pointer.promote(
            run_id=run_id, night=NIGHT - dt.timedelta(days=2 - number), bundle_uri="x",
            bundle_digest=str(number), reason="tests",
        )  # fmt: skip
    assert why_full() == ""
    pointer.rollback("tests")
    assert why_full() == f"the champion of {NIGHT} was withdrawn"


def test_training_restarts_when_a_learned_day_was_undone(record_night):
    run, why_full = record_night()
    day = dt.date(2026, 1, 18)
    word = DayDecision(change="undo", day=day, reason="bots", at=dt.datetime.now(dt.UTC))
    decide(run.workspace, "ctr", word)
    assert why_full() == "there is no state without 2026-01-18"
    decide(run.workspace, "ctr", word.model_copy(update={"change": "restore"}))
    assert why_full() == ""


def test_training_restarts_after_a_night_that_kept_no_state(record_night):
    _, why_full = record_night(learned=None)
    assert why_full() == f"the night of {NIGHT} kept no state"
