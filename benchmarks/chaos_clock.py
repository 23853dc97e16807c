"""Chaos test: the clock of a night jumps back or forward by hours mid-run (libfaketime).

    apt-get install libfaketime      # or NIGHTBID_FAKETIME=…/libfaketime.so.1
    python benchmarks/chaos.py --clock --cases 50 --out chaos.jsonl

Each case runs three nights in sequence. Each night has its own clock, which jumps by up to 30 hours
at a file operation; some nights are killed and rerun with a different clock. Then the last night
runs again with other settings, and two nights start at the same time. Numbers, not times, define
the order. The case checks that:

- each night was promoted once, in order, with the digests of an undisturbed night,
- the newest settings are in force,
- no two nights ran at the same time,
- the ledger counts everything once,
- `data prune` finds nothing to remove, and refuses when the clock says 1970 or 40 years later.
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
    """Return the path of libfaketime, or None if it is not installed."""
    override = os.environ.get("NIGHTBID_FAKETIME")
    paths = [Path(override)] if override else sorted(Path("/usr/lib").glob(f"*/{LIBRARY}"))
    return next((path for path in paths if path.exists()), None)


def child(asked: dict[str, Any]) -> None:
    """Run a night in this process, which has a fake clock."""
    workspace, night = Path(asked["workspace"]), dt.date.fromisoformat(asked["night"])

    # libfaketime breaks time.sleep of Python 3.11, but not Event.wait.
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
    """Return the run id of a night; other settings make another run."""
    return f"night-{night}" + f"-{epochs}" * (epochs is not None)


class Case:
    """The nights of one case.

    Args:
        folder: Folder of everything that the case writes.
        draw: The case's random generator.
        operations: Number of file operations of an undisturbed night.
    """

    def __init__(self, folder: Path, draw: random.Random, operations: int) -> None:
        self.folder, self.draw, self.operations = folder, draw, operations
        self.place = Workspace(str(folder / "workspace"))
        self.said: list[str] = []
        self.children = 0

    def start(self, night: int, *, dies: bool = False, epochs: int | None = None) -> Any:
        """Start a night with its own clock.

        Args:
            night: Number of the night.
            dies: Whether it is killed at some file operation.
            epochs: Value of `train.epochs` of the night.
        """
        before, later = (f"{self.draw.uniform(-HOURS, HOURS):+.2f}h" for _ in range(2))
        self.children += 1
        clock = self.folder / f"clock-{self.children}"
        clock.write_text(before)
        operation = self.draw.randint(1, self.operations)
        request = {
            "workspace": str(self.folder / "workspace"), "run": name_of(night, epochs),
            "night": str(FIRST + dt.timedelta(days=night)), "clock": str(clock), "then": later,
            "at": operation, "kill": self.draw.randint(1, self.operations) if dies else 0,
            "epochs": epochs, "span": str(self.folder / f"span-{night}"),
        }  # fmt: skip
        self.said.append(f"night {night}: {before}, from {operation} on {later}{', killed' * dies}")
        return subprocess.Popen(
            [sys.executable, __file__, json.dumps(request)],
            env={**os.environ, "LD_PRELOAD": str(library()), "FAKETIME_NO_CACHE": "1",
                 "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, night: int, **asked: Any) -> None:
        """Run a night until it succeeds or is killed."""
        process = self.start(night, **asked)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 or asked.get("dies"), output[-2000:]

    def play(self) -> None:
        """Run the nights and check the workspace after them."""
        for night in range(3):
            if self.draw.random() < 0.5:
                self.run(night, dies=True)
            self.run(night)
            self.check(night, None)
        self.run(2, epochs=7)
        self.check(2, 7)
        processes = [self.start(night) for night in (3, 4)]
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output[-2000:]
        first, second = sorted(
            json.loads((self.folder / f"span-{night}").read_text()) for night in (3, 4)
        )
        assert first[1] <= second[0], "two nights were at work at once"
        self.finish()

    def check(self, night: int, epochs: int | None) -> None:
        """Check that a night ended as with a correct clock."""
        from chaos_airflow import expected

        run = RunRecord.load(self.place, "p", name_of(night, epochs))
        for stage, digest in expected(run.date, epochs).items():
            record = run.stage(stage)
            assert record is not None, f"{stage} of night {night}"
            assert record.state == "done", f"{stage}: {record.error}"
            assert record.seconds >= 0, f"{stage} took {record.seconds} s"
            actual = read_manifest(self.place.at(record.uri)).digest
            assert actual == digest, f"{stage} of night {night} differs"
        serving = ChampionPointer(self.place, "p").current()
        assert serving is not None
        assert serving.bundle_digest == expected(run.date, epochs)["export"], "another one serves"

    def finish(self) -> None:
        """Check the workspace after all nights."""
        champions = ChampionPointer(self.place, "p").history()
        assert [champion.number for champion in champions] == list(range(1, len(champions) + 1))
        promoted = [champion.run_id for champion in champions]
        assert promoted[:4] == ["night-0", "night-1", "night-2", "night-2-7"], promoted
        newest = {2: "night-2-7"}
        runs = [
            RunRecord.load(self.place, "p", newest.get(night, f"night-{night}"))
            for night in range(5)
        ]
        trained_uris = [run.current()["train"].uri for run in runs]
        assert history(self.place, "p", FIRST + dt.timedelta(days=9), "train") == trained_uris, (
            "history"
        )
        keys = [entry.key for entry in Ledger(self.place).entries()]
        assert len(keys) == len(set(keys)), "an entry is counted twice"
        for hours in (-HOURS, 0, HOURS):
            now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
            outputs = unneeded(self.place, 7, now).unneeded
            assert not outputs, f"prune would remove {[str(output.folder) for output in outputs]}"
        for clock in ("+40y", "@1970-01-02 00:00:00"):
            self.prune(clock)

    def prune(self, clock: str) -> None:
        """Check that `data prune --delete` removes nothing when the clock is years off."""
        before = sorted(self.folder.glob("workspace/stages/*/*/*"))
        process = subprocess.run(
            [sys.executable, "-m", "nightbid", "data", "prune", "--delete"],
            env={**os.environ, "LD_PRELOAD": str(library()), "FAKETIME": clock,
                 "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                 "NIGHTBID_WORKSPACE": str(self.folder / "workspace")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = process.stdout + process.stderr
        assert process.returncode, f"prune at {clock}: {output}"
        assert "--trust-clock" in output, f"prune at {clock}: {output}"
        assert "Traceback" not in output, f"prune at {clock}: {output}"
        assert before == sorted(self.folder.glob("workspace/stages/*/*/*")), "something is gone"


def cases(count: int, seed: int, done: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Run the cases that have not run yet.

    Args:
        count: Number of cases.
        seed: Seed of the clocks.
        done: Tells whether a case has already run.
    """
    if library() is None:
        raise SystemExit("no libfaketime here → apt-get install libfaketime, or NIGHTBID_FAKETIME")
    _, operations = reference()
    for number in range(count):
        if done(f"clock-{number}"):
            continue
        folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
        nights = Case(folder, random.Random(f"{seed} clock {number}"), operations)
        try:
            nights.play()
            failure = ""
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        yield {"case": f"clock-{number}", "kind": "clock", "what": "; ".join(nights.said),
               "failure": failure}  # fmt: skip


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
