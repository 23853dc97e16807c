"""Nights whose clock is put back or forward by hours mid-run, with libfaketime.

    apt-get install libfaketime      # or NIGHTBID_FAKETIME=…/libfaketime.so.1
    python benchmarks/chaos.py --clock --cases 50 --out chaos.jsonl

Each case runs three nights, one after the other, under clocks of their own that jump by up to 30
hours at a file operation; some are killed, and run again under yet another clock. The last night is
then run as another run with other settings, and two nights begin at once. Order comes from numbers:
after it each night was promoted once, in order, with the digests of an undisturbed one, the newest
settings are the ones that count, no two nights were at work at once, the ledger counts everything
once, and `data prune` finds nothing to remove; by a clock of 1970 or of 40 years later it refuses.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nightbid.cli.night import _turn
from nightbid.cost.ledger import Ledger
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord, history
from nightbid.retention import unneeded
from nightbid.storage.workspace import Workspace, read_manifest
from rich.console import Console

sys.path.append(str(Path(__file__).parent))
import chaos_night
from chaos import Disturbed, kill, reference

LIBRARY = "faketime/libfaketime.so.1"
FIRST = dt.date(2026, 1, 8)
HOURS = 30


def library() -> Path | None:
    """Where libfaketime lies; None if it is not here."""
    told = os.environ.get("NIGHTBID_FAKETIME")
    found = [Path(told)] if told else sorted(Path("/usr/lib").glob(f"*/{LIBRARY}"))
    return next((path for path in found if path.exists()), None)


def child(asked: dict[str, Any]) -> None:
    """Run a night in this process, whose clock is no longer the machine's."""
    workspace, night = Path(asked["workspace"]), dt.date.fromisoformat(asked["night"])

    # libfaketime spoils the sleep of Python 3.11, not its waits.
    time.sleep = lambda seconds: threading.Event().wait(seconds) and None

    def jump(since: int) -> None:
        if since == 0:
            Path(asked["clock"]).write_text(asked["then"])

    with _turn(Workspace(str(workspace)), "p", asked["run"], night, Console(quiet=True)):
        Disturbed(workspace, asked["at"], jump)
        if asked["kill"]:
            Disturbed(workspace, asked["kill"], kill)
        began = time.monotonic()
        chaos_night.night(workspace, night, asked["run"], asked["epochs"])
        Path(asked["span"]).write_text(json.dumps([began, time.monotonic()]))


def name_of(night: int, epochs: int | None) -> str:
    """Run of a night: with other settings another one."""
    return f"night-{night}" + f"-{epochs}" * (epochs is not None)


class Case:
    """The nights of one case.

    Args:
        folder: Of everything.
        draw: Of the case.
        operations: File operations of an undisturbed night.
    """

    def __init__(self, folder: Path, draw: random.Random, operations: int) -> None:
        self.folder, self.draw, self.operations = folder, draw, operations
        self.place = Workspace(str(folder / "workspace"))
        self.said: list[str] = []
        self.children = 0

    def start(self, night: int, *, dies: bool = False, epochs: int | None = None) -> Any:
        """Start a night under a clock of its own.

        Args:
            night: Number of the night.
            dies: It is killed at some file operation.
            epochs: A setting of it.
        """
        before, then = (f"{self.draw.uniform(-HOURS, HOURS):+.2f}h" for _ in range(2))
        self.children += 1
        clock = self.folder / f"clock-{self.children}"
        clock.write_text(before)
        at = self.draw.randint(1, self.operations)
        asked = {
            "workspace": str(self.folder / "workspace"), "run": name_of(night, epochs),
            "night": str(FIRST + dt.timedelta(days=night)), "clock": str(clock), "then": then,
            "at": at, "kill": self.draw.randint(1, self.operations) if dies else 0,
            "epochs": epochs, "span": str(self.folder / f"span-{night}"),
        }  # fmt: skip
        self.said.append(f"night {night}: {before}, from {at} on {then}{', killed' * dies}")
        return subprocess.Popen(
            [sys.executable, __file__, json.dumps(asked)],
            env={**os.environ, "LD_PRELOAD": str(library()), "FAKETIME_NO_CACHE": "1",
                 "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, night: int, **asked: Any) -> None:
        """Run a night to its end, which is a kill or success."""
        process = self.start(night, **asked)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0 or asked.get("dies"), said[-2000:]

    def play(self) -> None:
        """Run the nights and check what is there after them."""
        for night in range(3):
            if self.draw.random() < 0.5:
                self.run(night, dies=True)
            self.run(night)
            self.check(night, None)
        self.run(2, epochs=7)
        self.check(2, 7)
        both = [self.start(night) for night in (3, 4)]
        for process in both:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said[-2000:]
        first, second = sorted(json.loads((self.folder / f"span-{n}").read_text()) for n in (3, 4))
        assert first[1] <= second[0], "two nights were at work at once"
        self.finish()

    def check(self, night: int, epochs: int | None) -> None:
        """Check that a night has ended as if its clock were right."""
        from chaos_airflow import expected

        run = RunRecord.load(self.place, "p", name_of(night, epochs))
        for stage, digest in expected(run.date, epochs).items():
            record = run.stage(stage)
            assert record is not None, f"{stage} of night {night}"
            assert record.state == "done", f"{stage}: {record.error}"
            assert record.seconds >= 0, f"{stage} took {record.seconds} s"
            made = read_manifest(self.place.at(record.uri)).digest
            assert made == digest, f"{stage} of night {night} differs"
        serving = ChampionPointer(self.place, "p").current()
        assert serving is not None
        assert serving.bundle_digest == expected(run.date, epochs)["export"], "another one serves"

    def finish(self) -> None:
        """Check what all nights have left."""
        champions = ChampionPointer(self.place, "p").history()
        assert [each.number for each in champions] == list(range(1, len(champions) + 1))
        promoted = [each.run_id for each in champions]
        assert promoted[:4] == ["night-0", "night-1", "night-2", "night-2-7"], promoted
        newest = {2: "night-2-7"}
        runs = [RunRecord.load(self.place, "p", newest.get(n, f"night-{n}")) for n in range(5)]
        made = [run.current()["train"].uri for run in runs]
        assert history(self.place, "p", FIRST + dt.timedelta(days=9), "train") == made, "history"
        keys = [each.key for each in Ledger(self.place).entries()]
        assert len(keys) == len(set(keys)), "an entry is counted twice"
        for hours in (-HOURS, 0, HOURS):
            now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
            found = unneeded(self.place, 7, now).unneeded
            assert not found, f"prune would remove {[str(each.folder) for each in found]}"
        for clock in ("+40y", "@1970-01-02 00:00:00"):
            self.prune(clock)

    def prune(self, clock: str) -> None:
        """Check that `data prune --delete` removes nothing by a clock that is years off."""
        before = sorted(self.folder.glob("workspace/stages/*/*/*"))
        done = subprocess.run(
            [sys.executable, "-m", "nightbid", "data", "prune", "--delete"],
            env={**os.environ, "LD_PRELOAD": str(library()), "FAKETIME": clock,
                 "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                 "NIGHTBID_WORKSPACE": str(self.folder / "workspace")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode, f"prune at {clock}: {said}"
        assert "--trust-clock" in said, f"prune at {clock}: {said}"
        assert "Traceback" not in said, f"prune at {clock}: {said}"
        assert before == sorted(self.folder.glob("workspace/stages/*/*/*")), "something is gone"


def cases(count: int, seed: int, done: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Run those that are not done yet.

    Args:
        count: How many there are.
        seed: Of their clocks.
        done: Whether a case has been run before.
    """
    if library() is None:
        raise SystemExit("no libfaketime here → apt-get install libfaketime, or NIGHTBID_FAKETIME")
    _, operations = reference()
    for number in range(count):
        if done(f"clock-{number}"):
            continue
        folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
        each = Case(folder, random.Random(f"{seed} clock {number}"), operations)
        try:
            each.play()
            failure = ""
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        yield {"case": f"clock-{number}", "kind": "clock", "what": "; ".join(each.said),
               "failure": failure}  # fmt: skip


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
