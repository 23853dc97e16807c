"""Slow file operations, and processes that stand still for longer than every sign of life counts.

Kinds of `chaos.py`. `slow`: reads and writes below the workspace wait for tens of milliseconds to
seconds. `stall`: a night stands still at a file operation (SIGSTOP) until another machine takes
its run, or its turn, for left behind and ends it; then it goes on. Every process is one of a
machine of its own here, and its sign of life counts for a second. The one that wakes up may end
what nobody has taken over; it may not promote, overwrite or record anything else.
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
from nightbid.storage.workspace import Workspace, read_manifest
from rich.console import Console

sys.path.append(str(Path(__file__).parent))
import chaos_night
from chaos import OWN, Disturbed, ended, in_child
from chaos_race import check_race

COUNTS_SECONDS, RENEW_SECONDS = 1.0, 0.2
"""For so long a sign of life counts here, and it is renewed so often."""
READS = frozenset({"os.listdir", "os.scandir"})
FIRST = dt.date(2026, 1, 6)


class Slowed:
    """Makes some file operations below a folder wait, reads as well as writes."""

    def __init__(self, folder: Path, draw: random.Random, operations: int) -> None:
        self.count = 0
        self._folder = str(folder)
        self._all, self._seconds, _ = self.drawn(draw, operations)
        sys.addaudithook(self._hook)

    @staticmethod
    def drawn(draw: random.Random, operations: int) -> tuple[range, float, str]:
        """Which operations wait, for how many seconds, and both as a text."""
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
    """Run one night, or two processes at one, whose file operations wait; says how."""
    said = []
    children = []
    for _ in range(draw.choice((1, 1, 2))):
        seed = draw.random()

        def slowed(seed: float = seed) -> None:
            Slowed(workspace, random.Random(seed), operations)
            night()

        said.append(Slowed.drawn(random.Random(seed), operations)[2])
        children.append(in_child(slowed, log))
    for child in children:
        code = ended(child)
        assert code == 0, log.read_text() if log.exists() else f"ended with {code}"
    return " beside ".join(said)


def stand_still(since: int) -> None:
    """Stop this process, once; somebody else lets it go on."""
    if since == 0:
        os.kill(os.getpid(), signal.SIGSTOP)


def machine(name: str) -> None:
    """Make this process one of another machine, whose signs count for a second."""
    turns.socket = SimpleNamespace(gethostname=lambda: name)  # type: ignore[assignment]
    turns.HELD_SECONDS, turns.RENEW_SECONDS = COUNTS_SECONDS, RENEW_SECONDS
    shell.NIGHT = tuple(chaos_night.stages())
    # Nothing was evaluated that could be said.
    shell.verdict_line = shell.write_report = lambda run: run.run_id  # type: ignore[assignment]


def night(
    workspace: Path,
    name: str,
    of: dt.date,
    run_id: str,
    spec: PipelineSpec,
    look_seconds: float = 0.05,
) -> None:
    """Be `nightbid run` on a machine.

    Args:
        workspace: Of the case.
        name: Of the machine.
        of: The night.
        run_id: The run.
        spec: The pipeline.
        look_seconds: Between two looks whether another night has ended.
    """
    machine(name)
    shell.TURN_SECONDS = look_seconds
    settings = Settings(workspace=str(workspace), cache=workspace.parent / "cache", tracking="")
    shell.run_nights(
        spec, first=of, nights=1, settings=settings, overrides=(),
        run_id=run_id, until="", console=Console(quiet=True),
    )  # fmt: skip


def stopped(child: int) -> bool:
    """Wait until a process stands still; False if it has ended instead."""
    _, status = os.waitpid(child, os.WUNTRACED)
    return os.WIFSTOPPED(status)


def play(folder: Path, draw: random.Random, operations: int) -> str:
    """Let one night stand still while others are at work; says how.

    Args:
        folder: Of the case.
        draw: Of the case.
        operations: File operations of an undisturbed night.
    """
    workspace, log = folder / "workspace", folder / "traceback.txt"
    at = draw.randint(1, operations)
    same, before = draw.random() < 0.5, draw.random() < 0.7
    if before:
        child = in_child(lambda: night(workspace, "one", FIRST, "before", chaos_night.spec(1)), log)
        assert ended(child) == 0, log.read_text() if log.exists() else "before"

    def first() -> None:
        Disturbed(workspace, at, stand_still)
        night(workspace, "one", FIRST + dt.timedelta(days=1), "first", chaos_night.spec(1))

    one = in_child(first, log)
    stood = stopped(one)
    what = f"stands still at {at}{' after a night' * before}, "
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
    seen = snapshot(workspace, [run_id for run_id, *_ in others])
    if stood:
        os.kill(one, signal.SIGCONT)
        code = ended(one)
        assert code in (0, OWN), f"{code} {log.read_text() if log.exists() else ''}"
        what += f"{others} end meanwhile, then it ends with {code}"
    now = snapshot(workspace, [run_id for run_id, *_ in others])
    for run_id, before_it in seen.items():
        # A run that was begun over with other settings, when the other had ended, is its latter.
        is_over = now[run_id][0] > before_it[0] and run_id == "first"
        assert is_over or now[run_id] == before_it, f"{before_it} is another now: {now[run_id]}"
    check(Workspace(str(workspace)))
    return what


def snapshot(workspace: Path, run_ids: list[str]) -> dict[str, Any]:
    """What some runs say of their stages, their settings and their champion."""
    place = Workspace(str(workspace))
    found = {}
    for run_id in run_ids:
        run = RunRecord.load(place, "p", run_id)
        pinned = run.pinned_champion()
        found[run_id] = (
            run.head.revision,
            run.head.spec["train"]["epochs"],  # type: ignore[index]
            pinned.bundle_digest if pinned else "",
            {name: (each.state, each.uri, each.summary) for name, each in run.current().items()},
        )
    return found


def check(place: Workspace) -> None:
    """Check that each champion was made by the settings that its run's record has."""
    check_race(place)
    for path in (place.root / "runs" / "p").glob("*/run.json"):
        check_minds(RunRecord.load(place, "p", path.parent.name))
    for entry in ChampionPointer(place, "p").history():
        made = [each.uri for each in RunRecord.load(place, "p", entry.run_id).records("export")]
        assert entry.bundle_uri in made, f"#{entry.number} is of no record"


def check_minds(run: RunRecord) -> None:
    """Check that all outputs of a run that count are of its settings, and of each other."""
    wanted = run.head.spec["train"]["epochs"]  # type: ignore[index]
    digests: dict[str, str] = {}
    for name, record in run.current().items():
        manifest = read_manifest(run.workspace.at(record.uri))
        assert name != "train" or manifest.metrics["epochs"] == wanted, f"{run.run_id}: two minds"
        for stage, digest in (*manifest.inputs.items(), (name, manifest.digest)):
            if stage != "champion":
                assert digests.setdefault(stage, digest) == digest, f"{run.run_id}: two of {stage}"
