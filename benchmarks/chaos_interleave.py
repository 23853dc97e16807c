"""Chaos test: two nights, a ten-night backfill, rollbacks and YAML edits, all at once.

    python benchmarks/chaos.py --interleavings 200 --out interleavings.jsonl

Each case is one interleaving: twelve processes start a night of the same pipeline within a second.
Each process waits at file operations that the seed determines. Meanwhile the YAML is edited,
sometimes only half-written, and champions are rolled back. A night that reads a half-written YAML
runs again at the end. The case checks that every champion was compared with its predecessor, that
every run has one YAML in its record and in all its outputs, and that no two nights ran at the same
time.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nightbid.config.load import find_pipeline
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord, state_of
from nightbid.storage.workspace import Workspace

sys.path.append(str(Path(__file__).parent))
import chaos_edit
from chaos import OWN, ended, in_child, reference
from chaos_race import check_race
from chaos_stall import Slowed, check_minds, night

FIRST = dt.date(2026, 1, 8)
WIDE = 10
LOOK_SECONDS = 0.25
"""Poll interval of a waiting night; twelve of them share the machine."""


def start(folder: Path, name: str, day: int, draw: random.Random, operations: int) -> Any:
    """Start a night with the current YAML.

    Returns:
        Its process id.
    """

    def work() -> None:
        threading.Event().wait(draw.uniform(0, 1))
        Slowed(folder / "workspace", draw, operations)
        spec = find_pipeline("p", folder / "pipelines")
        night(folder / "workspace", "here", FIRST + dt.timedelta(days=day), name, spec,
              LOOK_SECONDS)  # fmt: skip

    return in_child(work, folder / f"{name}.txt")


def play(folder: Path, draw: random.Random, operations: int) -> dict[str, Any]:
    """Run the nights of a case, check the workspace and return a summary."""
    path = folder / "pipelines" / "p.yaml"
    path.parent.mkdir()
    path.write_text(chaos_edit.SPEC.format(epochs=1))
    runs = [(f"backfill-{day}", day) for day in range(WIDE)]
    runs += [(f"by-hand-{number}", draw.randint(WIDE // 2, WIDE + 1)) for number in range(2)]
    never = threading.Event()
    seeds = [draw.random() for _ in range(len(runs) + 2)]
    meddlers = [
        in_child(partial(chaos_edit.edit, path, random.Random(seeds[0]), never),
                 folder / "edit.txt"),
        in_child(partial(chaos_edit.interfere, folder / "workspace", random.Random(seeds[1]),
                         never), folder / "person.txt"),
    ]  # fmt: skip
    refused = []
    try:
        started = [
            (name, day, start(folder, name, day, random.Random(seed), operations))
            for (name, day), seed in zip(runs, seeds[2:], strict=True)
        ]
        for name, day, child in started:
            code = ended(child)
            log = folder / f"{name}.txt"
            assert code in (0, OWN), f"{name}: {log.read_text() if log.exists() else code}"
            if code:
                refused.append((name, day))
    finally:
        for child in meddlers:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    path.write_text(chaos_edit.SPEC.format(epochs=3))
    for name, day in refused:
        code = ended(start(folder, name, day, random.Random(0), operations))
        log = folder / f"{name}.txt"
        assert code == 0, f"{name} again: {log.read_text() if log.exists() else code}"
    return check(Workspace(str(folder / "workspace")), [name for name, _ in runs], len(refused))


def check(place: Workspace, names: list[str], refused: int) -> dict[str, Any]:
    """Check the workspace after all nights, and count the champions."""
    check_race(place)
    spans = []
    for name in names:
        run = RunRecord.load(place, "p", name)
        state, stage = state_of(run.head, run.current())
        assert state == "done", f"{name} is {state} at {stage}"
        check_minds(run)
        spans += [(record.started, record.started + dt.timedelta(seconds=record.seconds), name)
                  for record in run.records() if not record.reused]  # fmt: skip
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        assert first == second or end <= begin, f"{first} and {second} were at work at once"
    changes = [change.change for change in ChampionPointer(place, "p").history()]
    promotions, rollbacks = changes.count("promote"), changes.count("rollback")
    return {"what": f"{promotions} promotions, {rollbacks} rollbacks, {refused} met half a YAML",
            "promotions": promotions}  # fmt: skip


def cases(count: int, seed: int, done: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Run the cases that have not run yet.

    Args:
        count: Number of cases.
        seed: Seed of the interleavings.
        done: Tells whether a case has already run.
    """
    _, operations = reference()
    for number in range(count):
        if done(f"interleaving-{number}"):
            continue
        outcome: dict[str, Any] = {"what": ""}
        failure = ""
        with tempfile.TemporaryDirectory(prefix="nightbid-chaos-") as folder:
            try:
                draw = random.Random(f"{seed} interleaving {number}")
                outcome = play(Path(folder), draw, operations)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
        yield {"case": f"interleaving-{number}", "kind": "interleaving", **outcome,
               "failure": failure}  # fmt: skip
