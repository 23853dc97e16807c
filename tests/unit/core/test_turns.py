"""A pipeline runs one night at a time, however often each night asks for its turn."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from nightbid.clock import heartbeat, moment
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import CorruptDataError
from nightbid.night.attempts import StageRecord
from nightbid.night.record import HEARTBEAT, RunRecord, history, runs_of
from nightbid.night.sealed import seal
from nightbid.night.turns import Turns, watched_runs
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS

FIRST = dt.date(2026, 1, 5)


class Scheduler:
    """Knows which runs are running, as Airflow does."""

    def __init__(self, tmp_path: Path, *running: str) -> None:
        self.turns = Turns(Workspace(str(tmp_path)), "small")
        self.running = set(running)

    def take(self, run_id: str, day: int = 0, **options: bool) -> str:
        date = FIRST + dt.timedelta(days=day)
        return self.turns.take(run_id, date, lambda ids: bool(self.running & set(ids)), **options)


def test_a_night_waits_for_the_running_night_to_end(tmp_path) -> None:
    airflow = Scheduler(tmp_path, "scheduled__a+b", "manual__c")
    assert airflow.take("scheduled__a+b") == ""
    assert airflow.take("manual__c", 1) == "scheduled__a+b"
    assert airflow.take("scheduled__a+b") == "", "a second try of the first stage goes on"
    airflow.running.remove("scheduled__a+b")  # However it ended, even if killed.
    assert airflow.take("manual__c", 1) == ""


def test_the_earliest_waiting_night_runs_next(tmp_path) -> None:
    airflow = Scheduler(tmp_path, "now", "third", "first", "second")
    airflow.take("now")
    for day, run in ((3, "third"), (1, "first"), (2, "second")):
        assert airflow.take(run, day) == "now"
    airflow.running.remove("now")
    assert airflow.take("third", 3) == "first"
    assert airflow.take("second", 2) == "first"
    assert airflow.take("first", 1) == ""
    airflow.running -= {"first", "second"}
    assert airflow.take("third", 3) == "", "one that died while it waited holds nobody up"


def test_runs_that_start_together_run_in_order_of_their_nights(tmp_path) -> None:
    airflow = Scheduler(tmp_path, "a", "b")
    assert airflow.take("b", 2, is_patient=True) == "b"
    assert airflow.take("a", 1, is_patient=True) == "a"
    assert airflow.take("b", 2) == "a"
    assert airflow.take("a", 1) == ""


def test_cleared_runs_wait_for_the_running_one_without_a_deadlock(tmp_path) -> None:
    airflow = Scheduler(tmp_path, "a", "b", "c")
    for run in ("a", "b", "c"):
        airflow.running = {run}
        assert airflow.take(run) == ""
    airflow.running = {"a", "b", "c"}  # A user clears a and b while c runs.
    assert airflow.take("a") == "b", "b is running again, perhaps from its middle on"
    assert airflow.take("b") == "c"
    airflow.running.remove("c")
    assert airflow.take("b") == "a"
    assert airflow.take("a") == ""
    airflow.running.remove("a")
    assert airflow.take("b") == ""


@pytest.mark.parametrize("seed", range(3))
def test_two_runs_never_start_at_once(tmp_path, seed) -> None:
    names = [f"run-{number}" for number in range(8)]
    airflow = Scheduler(tmp_path, *names)
    begun: list[str] = []

    def ask(name: str) -> str:
        return airflow.take(name, names.index(name))

    with ThreadPoolExecutor(8) as pool:
        while airflow.running:
            order = random.Random(seed).sample(sorted(airflow.running), len(airflow.running))
            free = [name for name, other in zip(order, pool.map(ask, order), strict=True)
                    if not other]  # fmt: skip
            assert len(free) <= 1
            begun += free
            airflow.running -= set(free)
    assert sorted(begun) == names


def test_a_damaged_turn_is_reported_with_its_file_and_a_fix(tmp_path) -> None:
    airflow = Scheduler(tmp_path)
    airflow.take("a")
    (path,) = (tmp_path / "turns" / "small" / "begun").iterdir()
    path.write_text(path.read_text()[:20])
    with pytest.raises(CorruptDataError, match=r"000001\.json.*delete this file"):
        airflow.take("b")


def test_a_shell_run_holds_the_turn_while_its_process_lives(tmp_path) -> None:
    airflow = Scheduler(tmp_path)
    with airflow.turns.held("by-shell"):
        assert airflow.take("by-shell") == ""
        assert airflow.take("scheduled", 1) == "by-shell", "Airflow knows nothing of it"
        assert airflow.take("by-shell") == ""
    assert airflow.take("scheduled", 1) == ""


def test_a_killed_process_releases_its_turn(tmp_path) -> None:
    program = (
        "import os, sys; from nightbid.night.turns import Turns;"
        "from nightbid.storage.workspace import Workspace; import datetime as dt;"
        "turns = Turns(Workspace(sys.argv[1]), 'small');"
        "hold = turns.held('killed'); hold.__enter__();"
        "assert turns.take('killed', dt.date(2026, 1, 5), lambda ids: False) == '';"
        "print('holds', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        airflow = Scheduler(tmp_path)
        assert airflow.take("next", 1) == "killed"
        process.kill()
    assert airflow.take("next", 1) == ""


def test_processes_of_the_same_run_work_one_after_another(tmp_path) -> None:
    program = (
        "import os, sys, time; from nightbid.night.turns import Turns;"
        "from nightbid.storage.workspace import Workspace;"
        "turns = Turns(Workspace(sys.argv[1]), 'small');"
        "hold = turns.alone('one.run', lambda: time.sleep(0.01)); hold.__enter__();"
        "os.mkdir(sys.argv[1] + '/at-work');"  # fails if another process holds it
        "time.sleep(0.05);"
        "os.rmdir(sys.argv[1] + '/at-work');"
        "os._exit(9) if sys.argv[2] == 'dies' else hold.__exit__(None, None, None)"
    )
    path = tmp_path / "program.py"
    path.write_text(program)
    ends = ["dies", "ends", "dies", "ends", "ends", "dies", "ends", "ends"]
    processes = [COMMANDS.start(str(tmp_path), end, module=str(path)) for end in ends]
    for process, end in zip(processes, ends, strict=True):
        errors, _ = process.communicate(timeout=300)
        assert process.returncode == (9 if end == "dies" else 0), errors
    with Scheduler(tmp_path).turns.alone("one.run", lambda: pytest.fail("nobody is left")):
        left = list((tmp_path / "turns" / "small" / "own").iterdir())
    assert len(left) == 1, "what killed processes left is cleared"


@pytest.mark.parametrize(("hours", "waits"), [(-1, False), (0, True), (0.1, True), (5, False)])
def test_a_hold_of_another_machine_expires_even_when_its_clock_is_ahead(
    tmp_path, hours, waits
) -> None:
    left = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
    sign = {"run_id": "far", "host": "another", "process": 1, "since": 0.0, "at": left.isoformat()}
    airflow = Scheduler(tmp_path)
    airflow.take("far")
    write_atomically(Workspace(str(tmp_path)).root / "turns/small/held/far.1.json",
                     json.dumps(sign))  # fmt: skip
    assert airflow.take("near", 1) == ("far" if waits else "")


def test_a_hold_of_this_machine_does_not_expire_when_its_clock_is_set(tmp_path, monkeypatch):
    airflow = Scheduler(tmp_path)
    airflow.take("first")
    with airflow.turns.held("first"):
        boot = psutil.boot_time()  # the kernel derives it from the clock
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot - 7200)
        assert airflow.take("second", 1) == "first"
        (path,) = (tmp_path / "turns/small/held").glob("first.*.json")
        path.write_text(path.read_text().replace(f'"process": {os.getpid()}', '"process": 1'))
        assert airflow.take("second", 1) == "", "another process has the id of the holder"


def test_a_hold_of_another_container_does_not_depend_on_the_clock(tmp_path) -> None:
    airflow = Scheduler(tmp_path)
    airflow.take("far")
    path = Workspace(str(tmp_path)).root / "turns/small/held/far.1.json"
    for age, hours, waits in ((5, 3, True), (5, -3, True), (90, 0, False)):
        at = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
        written = {**moment(), "seconds": moment()["seconds"] - age}
        sign = {"run_id": "far", "host": "another", "process": 1, "start": "1 2",
                "at": at.isoformat(), "moment": written}  # fmt: skip
        write_atomically(path, json.dumps(sign))
        assert airflow.take("near", 1) == ("far" if waits else "")


def test_the_newest_run_of_a_night_does_not_depend_on_the_clock(tmp_path) -> None:
    workspace = Workspace(str(tmp_path))
    spec = PipelineSpec.model_validate({"pipeline": "small", "features": {"a": {"column": "a"}}})
    for name in ("first", "again"):
        run = RunRecord.start(workspace, spec, FIRST, run_id=name)
        run.record(StageRecord(stage="sample", state="done", uri=f"stages/{name}", seconds=1.0,
                               started=dt.datetime.now(dt.UTC)))  # fmt: skip
        # The clock is set back by three hours after the first run.
        late = run.head.started - dt.timedelta(hours=3 * (name == "again"))
        write_atomically(run.folder / "run.json", seal(run.head.model_copy(
            update={"started": late})))  # fmt: skip
    assert [run.run_id for run in runs_of(workspace, "small")] == ["first", "again"]
    assert history(workspace, "small", FIRST + dt.timedelta(days=1), "sample") == ["stages/again"]
    taken_up = RunRecord.start(workspace, spec, FIRST, run_id="first")
    assert taken_up.head.number == 1


def test_a_run_counts_as_active_while_its_heartbeat_is_recent(tmp_path) -> None:
    workspace = Workspace(str(tmp_path))
    spec = PipelineSpec.model_validate({"pipeline": "small", "features": {"a": {"column": "a"}}})
    run = RunRecord.start(workspace, spec, FIRST, run_id="scheduled__2026-01-05")
    at_work = watched_runs(workspace, "small")
    assert not at_work([run.run_id]), "no triggerer has looked at it"
    now = dt.datetime.now(dt.UTC)
    write_atomically(run.folder / HEARTBEAT, now.isoformat())
    assert at_work([run.run_id])
    write_atomically(run.folder / HEARTBEAT, (now - dt.timedelta(minutes=5)).isoformat())
    assert not at_work([run.run_id])
    write_atomically(run.folder / HEARTBEAT, (now + dt.timedelta(hours=3)).isoformat())
    assert not at_work([run.run_id]), "the clock was put back since: nobody knows how old that is"
    beat = {**json.loads(heartbeat()), "at": (now + dt.timedelta(hours=3)).isoformat()}
    write_atomically(run.folder / HEARTBEAT, json.dumps(beat))
    assert at_work([run.run_id]), "unless it is of the same machine"
    write_atomically(run.folder / HEARTBEAT, now.isoformat())
    run.record(StageRecord(stage="sample", state="failed", started=now, seconds=1, error="x"))
    assert not at_work([run.run_id]), "it has ended"


def test_a_turn_that_cannot_be_written_leaves_nothing_and_is_taken_later(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # as on a full disk
    try:
        with pytest.raises(OSError):
            Scheduler(tmp_path).take("first")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert Scheduler(tmp_path).take("first") == ""
