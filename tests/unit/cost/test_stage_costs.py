"""Ledger entries of stages that succeed, fail, are killed or exceed the budget."""

from __future__ import annotations

import signal
import threading
import time
from datetime import date
from functools import partial
from pathlib import Path

import pytest
from nightbid import attempt
from nightbid.config.costs import Budget
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.budget import read_usage_log, request_cancel
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.meter import ProcessMeter
from nightbid.cost.price_book import DEFAULT_BOOK, PriceBook, default_book
from nightbid.errors import BudgetExceeded, PriceError, StageError
from nightbid.night.manifest import Usage
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS

STAGES = """
import time
from pathlib import Path
from nightbid.gates.gate import gate
from nightbid.night.task import Outcome

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))

def work(task):
    burn(0.1)
    task.progress(0.5, "half")
    burn(0.1)
    (task.output / "result.txt").write_text("made")
    return Outcome()

def fail(task):
    burn(0.3)
    raise ValueError("failed on purpose")

def fill(task):
    Path("/dev/full").write_text("more than fits")

def sleep(task):
    (task.output / "part.txt").write_text("half")
    time.sleep(60)
    return Outcome()

def swallow(task):
    for _ in range(600):
        try:
            time.sleep(0.1)
        except Exception:
            return Outcome()
    return Outcome()

def spin(task):
    burn(60)
    return Outcome()

@gate("raw")
def judged(task):
    time.sleep(60)
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineSpec:
    (tmp_path / "costly_stages.py").write_text(STAGES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(attempt, "ProcessMeter", partial(ProcessMeter, every=0.1))
    # Features do not affect costs.
    return PipelineSpec.model_construct(pipeline="p", features={})


def _run(spec: PipelineSpec, tmp_path: Path) -> RunRecord:
    return RunRecord.start(Workspace(str(tmp_path / "w")), spec, date(2026, 1, 8))


def _stage(function: str, name: str = "train") -> Stage:
    return Stage(name, f"costly_stages:{function}", (), ("seed",), ("cost",))


def _with_budget(spec: PipelineSpec, **budget: object) -> PipelineSpec:
    return spec.model_copy(update={"budget": Budget.model_validate(budget)})


def test_each_attempt_is_recorded_once_and_a_reused_output_costs_nothing(
    spec: PipelineSpec, tmp_path: Path
) -> None:
    run = _run(spec, tmp_path)
    before = time.process_time()
    with pytest.raises(StageError, match="failed on purpose"):
        run_stage(_stage("fail"), spec, run, cache_folder=tmp_path)
    spent = time.process_time() - before
    run_stage(_stage("work"), spec, run, cache_folder=tmp_path, attempt=2)
    run_stage(_stage("work"), spec, run, cache_folder=tmp_path, attempt=3)
    entries = Ledger(run.workspace).entries(run_id=run.run_id)
    cpu = {e.attempt: e for e in entries if e.resource == "vcpu_hour"}
    assert {number: e.state for number, e in cpu.items()} == {1: "failed", 2: "done"}
    # The kernel counts CPU time in hundredths of a second.
    assert 0.27 < float(cpu[1].quantity) * 3600 < spent + 0.05
    assert total(entries).amount > 0
    assert total(entries, here=True).amount == 0


def test_a_full_disk_is_reported_with_what_to_do(spec: PipelineSpec, tmp_path: Path) -> None:
    run = _run(spec, tmp_path)
    with pytest.raises(
        StageError, match=r"No space left on device.* → free disk space \(df, night.*; nothing was"
    ):
        run_stage(_stage("fill"), spec, run, cache_folder=tmp_path)


def test_a_cancel_marker_stops_a_sleeping_stage_without_output(
    spec: PipelineSpec, tmp_path: Path
) -> None:
    run = _run(spec, tmp_path)
    usage_log = run.usage_file("train", 1)

    def cancel() -> None:
        while read_usage_log(usage_log) is None:
            time.sleep(0.05)
        request_cancel(usage_log, "run p-2026-01-08 is over its limit of 5 USD: canceled")

    watcher = threading.Thread(target=cancel)
    watcher.start()
    with pytest.raises(BudgetExceeded, match="over its limit of 5 USD"):
        run_stage(_stage("sleep"), spec, run, cache_folder=tmp_path)
    watcher.join()
    record = run.stage("train")
    assert record is not None
    assert record.state == "failed"
    assert "limit of 5 USD" in record.error
    assert not list((tmp_path / "w" / "stages").rglob("part.txt"))
    assert Ledger(run.workspace).entries(run_id=run.run_id, stage="train")[0].state == "failed"
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL


def test_a_stage_that_ignores_the_interrupt_still_fails_over_budget(
    spec: PipelineSpec, tmp_path: Path
) -> None:
    spec = _with_budget(spec, stage_usd={"train": "0.0000001"})
    run = _run(spec, tmp_path)
    with pytest.raises(BudgetExceeded, match="stage train has cost"):
        run_stage(_stage("swallow"), spec, run, cache_folder=tmp_path)


def test_a_gate_over_its_budget_fails_instead_of_stopping_the_night(
    spec: PipelineSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A poll may find a part of the limit spent, which is no reason for the budget's own warning.
    spec = _with_budget(spec, run_usd="0.0000001", warn_at=1)
    run = _run(spec, tmp_path)
    with pytest.raises(BudgetExceeded):
        run_stage(_stage("judged", "gate_raw"), spec, run, cache_folder=tmp_path)
    record = run.stage("gate_raw")
    assert record is not None
    assert record.state == "failed"
    assert not caplog.text
    assert not list((tmp_path / "w" / "stages").rglob("gate.json"))


def test_a_stage_in_a_thread_is_stopped_over_budget(spec: PipelineSpec, tmp_path: Path) -> None:
    spec = _with_budget(spec, run_usd="0.000001")
    run = _run(spec, tmp_path)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run_stage(_stage("spin"), spec, run, cache_folder=tmp_path)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(raised[0], BudgetExceeded)


@pytest.mark.slow
def test_costs_of_killed_attempts_count_and_a_spent_budget_starts_nothing(
    spec: PipelineSpec, tmp_path: Path
) -> None:
    run = _run(spec, tmp_path)
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(tmp_path)!r})
from nightbid.config.pipeline import PipelineSpec
from nightbid.night.record import RunRecord
from nightbid.runner import run_stage
from nightbid.night.stage import Stage
from nightbid.storage.workspace import Workspace
spec = PipelineSpec.model_construct(pipeline="p", features={{}})
run = RunRecord.load(Workspace({str(tmp_path / "w")!r}), "p", {run.run_id!r})
run_stage(Stage("train", "costly_stages:spin", (), ("seed",), ("cost",)), spec, run,
          cache_folder=Path({str(tmp_path)!r}))
"""
    (tmp_path / "killed.py").write_text(code)
    child = COMMANDS.start(module=str(tmp_path / "killed.py"))
    usage_log = run.usage_file("train", 1)
    while (point := read_usage_log(usage_log)) is None or point.usage.cpu_seconds < 0.2:
        time.sleep(0.02)
    child.kill()
    child.wait()
    run_stage(_stage("work"), spec, run, cache_folder=tmp_path)
    entries = Ledger(run.workspace).entries(run_id=run.run_id)
    assert {e.attempt for e in entries} == {1, 2}
    spent = total(entries).amount
    poor = _with_budget(spec, run_usd=str(spent / 2), stage_usd={"train": "9"})
    with pytest.raises(BudgetExceeded, match="not started"):
        run_stage(_stage("work", "evaluate"), poor, run, cache_folder=tmp_path)


def test_a_stage_without_a_valid_price_is_not_started_and_continues_with_one(
    spec: PipelineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "book.yaml"
    book.write_text(DEFAULT_BOOK.read_text().replace("2027-06-30", "2025-06-30"))
    run = _run(spec, tmp_path)
    with monkeypatch.context() as expired:
        expired.setenv("NIGHTBID_PRICES", str(book))
        default_book.cache_clear()
        with pytest.raises(PriceError, match=r"no price for dataflow_batch\.vcpu_hour .* is valid"):
            run_stage(_stage("work"), spec, run, cache_folder=tmp_path)
    default_book.cache_clear()
    assert not (tmp_path / "w" / "stages").exists()
    (record,) = run.records()
    assert (record.state, record.usage) == ("failed", Usage())
    assert "price book: no price" in record.error
    run_stage(_stage("work"), spec, run, cache_folder=tmp_path, attempt=run.next_attempt("train"))
    assert [record.state for record in run.records()] == ["failed", "done"]


def test_a_rerun_records_costs_of_an_attempt_killed_after_its_commit(
    spec: PipelineSpec, tmp_path: Path
) -> None:
    run = _run(spec, tmp_path)
    run_stage(_stage("work"), spec, run, cache_folder=tmp_path)
    spent = total(Ledger(run.workspace).entries()).amount
    # State after a kill: the output exists, its record and its costs do not.
    for path in [*(run.folder / "stages").iterdir(), *(tmp_path / "w" / "ledger").rglob("*.json")]:
        path.unlink()
    assert total(Ledger(run.workspace).entries()).amount == 0
    assert run_stage(_stage("work"), spec, run, cache_folder=tmp_path).reused
    entered = total(Ledger(run.workspace).entries()).amount
    assert 0 < entered <= spent
    run_stage(_stage("work"), spec, run, cache_folder=tmp_path)
    assert total(Ledger(run.workspace).entries()).amount == entered


def test_a_warning_is_logged_a_month_before_a_price_expires(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = PriceBook.load()
    book.unit_price("dataflow_batch", "vcpu_hour", at=date(2027, 5, 30))
    assert not caplog.messages
    book.unit_price("dataflow_batch", "vcpu_hour", at=date(2027, 5, 31))
    (message,) = caplog.messages
    assert "dataflow_batch.vcpu_hour in" in message
    assert "ends on 2027-06-30" in message
