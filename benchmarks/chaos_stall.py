"""Slow file operations, and processes that stop for longer than their heartbeat timeout.

`chaos.py` runs these two kinds of cases. `slow`: reads and writes below the workspace wait for tens
of milliseconds to seconds. `stall`: a night stops at a file operation (SIGSTOP) until another
machine considers its run or its turn abandoned and completes it; then the night continues. Every
process acts as a machine of its own, with a heartbeat timeout of one second. After it wakes up, a
process may complete only work that no other machine took over; it may not promote, overwrite or
record anything else.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nightbid.cli import night as shell
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.night import turns
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.night.reference import pinned_champion
from nightbid.storage.workspace import Workspace, read_manifest
from rich.console import Console

sys.path.append(str(Path(__file__).parent))
import chaos_night
from chaos import OWN, Disturbed, ended, in_child
from chaos_race import check_race

COUNTS_SECONDS, RENEW_SECONDS = 1.0, 0.2
"""Heartbeat timeout and interval of these processes."""
READS = frozenset({"os.listdir", "os.scandir"})
FIRST = dt.date(2026, 1, 6)


class Slowed:
    """Delays some file operations below a folder, reads as well as writes."""

    def __init__(self, folder: Path, draw: random.Random, operations: int) -> None:
        self.count = 0
        self._folder = str(folder)
        self._all, self._seconds, _ = self.drawn(draw, operations)
        sys.addaudithook(self._hook)

    @staticmethod
    def drawn(draw: random.Random, operations: int) -> tuple[range, float, str]:
        """Draw the operations that wait and their seconds; return both and a description."""
        begin, many = draw.randint(1, 4 * operations), draw.choice((1, 10, 40))
        seconds = draw.choice((0.02, 0.05, 2.0 if many == 1 else 0.5)) if many < 40 else 0.02
        return range(begin, begin + many), seconds, f"{many} from {begin} wait {seconds} s"

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" or event in READS or event.startswith("os."):
            path = arguments[0] if arguments else None
            if isinstance(path, str) and path.startswith(self._folder):
                self.count += 1
                if self.count in self._all:
                    time.sleep(self._seconds)


def slow(
    night: Callable[[], None], workspace: Path, log: Path, draw: random.Random, operations: int
) -> str:
    """Run a night with slow file operations in one or two processes; return a description."""
    descriptions = []
    children = []
    for _ in range(draw.choice((1, 1, 2))):
        seed = draw.random()

        def slowed(seed: float = seed) -> None:
            Slowed(workspace, random.Random(seed), operations)
            night()

        descriptions.append(Slowed.drawn(random.Random(seed), operations)[2])
        children.append(in_child(slowed, log))
    for child in children:
        code = ended(child)
        assert code == 0, log.read_text() if log.exists() else f"ended with {code}"
    return " beside ".join(descriptions)


def stand_still(since: int) -> None:
    """Stop this process once; its parent continues it."""
    if since == 0:
        os.kill(os.getpid(), signal.SIGSTOP)


def machine(name: str) -> None:
    """Make this process act as another machine, with a heartbeat timeout of one second."""
    turns.socket = SimpleNamespace(gethostname=lambda: name)  # type: ignore[assignment]
    turns.HELD_SECONDS, turns.RENEW_SECONDS = COUNTS_SECONDS, RENEW_SECONDS
    shell.NIGHT = tuple(chaos_night.stages())
    # There is no evaluation to report.
    shell.verdict_line = shell.write_report = lambda run: run.run_id  # type: ignore[assignment]


def night(
    workspace: Path,
    name: str,
    of: dt.date,
    run_id: str,
    spec: PipelineSpec,
    look_seconds: float = 0.05,
) -> None:
    """Act as `nightbid run` on a machine.

    Args:
        workspace: The case's workspace.
        name: Name of the machine.
        of: Day of the night.
        run_id: Id of the run.
        spec: The pipeline.
        look_seconds: Poll interval while another night runs.
    """
    machine(name)
    shell.TURN_SECONDS = look_seconds
    settings = Settings(workspace=str(workspace), cache=workspace.parent / "cache", tracking="")
    shell.run_nights(
        spec, first=of, nights=1, settings=settings, overrides=(),
        run_id=run_id, until="", console=Console(quiet=True),
    )  # fmt: skip


def stopped(child: int) -> bool:
    """Wait until a process stops; return False if it ended instead."""
    _, status = os.waitpid(child, os.WUNTRACED)
    return os.WIFSTOPPED(status)


def play(folder: Path, draw: random.Random, operations: int) -> str:
    """Stop one night while others run; return a description.

    Args:
        folder: The case's folder.
        draw: The case's random generator.
        operations: Number of file operations of an undisturbed night.
    """
    workspace, log = folder / "workspace", folder / "traceback.txt"
    operation = draw.randint(1, operations)
    same, before = draw.random() < 0.5, draw.random() < 0.7
    if before:
        child = in_child(lambda: night(workspace, "one", FIRST, "before", chaos_night.spec(1)), log)
        assert ended(child) == 0, log.read_text() if log.exists() else "before"

    def first() -> None:
        Disturbed(workspace, operation, stand_still)
        night(workspace, "one", FIRST + dt.timedelta(days=1), "first", chaos_night.spec(1))

    stalled = in_child(first, log)
    is_stopped = stopped(stalled)
    event = f"stands still at {operation}{' after a night' * before}, "
    others = [("first", 1, 2)] if same else [("second", 2, 2)]
    if draw.random() < 0.3:
        others.append(("third", 3, 3))
    for run_id, day, epochs in others:

        def other(run_id: str = run_id, day: int = day, epochs: int = epochs) -> None:
            night(
                workspace, "two", FIRST + dt.timedelta(days=day), run_id, chaos_night.spec(epochs)
            )

        code = ended(in_child(other, log))
        assert code == 0, f"{run_id}: {log.read_text() if log.exists() else code}"
    before_wake = snapshot(workspace, [run_id for run_id, *_ in others])
    if is_stopped:
        os.kill(stalled, signal.SIGCONT)
        code = ended(stalled)
        assert code in (0, OWN), f"{code} {log.read_text() if log.exists() else ''}"
        event += f"{others} end meanwhile, then it ends with {code}"
    after_wake = snapshot(workspace, [run_id for run_id, *_ in others])
    for run_id, earlier in before_wake.items():
        # The first run may restart with other settings after the other ended; its revision grows.
        is_over = after_wake[run_id][0] > earlier[0] and run_id == "first"
        assert is_over or after_wake[run_id] == earlier, (
            f"{earlier} is another now: {after_wake[run_id]}"
        )
    check(Workspace(str(workspace)))
    return event


def snapshot(workspace: Path, run_ids: list[str]) -> dict[str, Any]:
    """Return the stages, settings and champion that the records of some runs hold."""
    place = Workspace(str(workspace))
    states = {}
    for run_id in run_ids:
        run = RunRecord.load(place, "p", run_id)
        pinned = pinned_champion(run)
        states[run_id] = (
            run.head.revision,
            run.head.spec["train"]["epochs"],  # type: ignore[index]
            pinned.bundle_digest if pinned else "",
            {
                name: (record.state, record.uri, record.summary)
                for name, record in run.current().items()
            },
        )
    return states


def check(place: Workspace) -> None:
    """Check that each champion was made with the settings in its run's record."""
    check_race(place)
    for path in (place.root / "runs" / "p").glob("*/run.json"):
        check_minds(RunRecord.load(place, "p", path.parent.name))
    for entry in ChampionPointer(place, "p").history():
        exports = [
            record.uri for record in RunRecord.load(place, "p", entry.run_id).records("export")
        ]
        assert entry.bundle_uri in exports, f"#{entry.number} is of no record"


def check_minds(run: RunRecord) -> None:
    """Check that the current outputs of a run have its settings and depend on each other."""
    epochs = run.head.spec["train"]["epochs"]  # type: ignore[index]
    digests: dict[str, str] = {}
    for name, record in run.current().items():
        manifest = read_manifest(run.workspace.at(record.uri))
        assert name != "train" or manifest.metrics["epochs"] == epochs, f"{run.run_id}: two minds"
        for stage, digest in (*manifest.inputs.items(), (name, manifest.digest)):
            if stage != "champion":
                assert digests.setdefault(stage, digest) == digest, f"{run.run_id}: two of {stage}"
