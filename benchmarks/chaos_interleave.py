"""Two nights, a backfill ten wide, a person who rolls back, and an edited YAML, all at once.

    python benchmarks/chaos.py --interleavings 200 --out interleavings.jsonl

Each case is one interleaving: twelve processes begin a night of one pipeline within a second, and
each waits at file operations of its own, drawn from the seed; meanwhile the YAML is edited, also
half-written, and champions are rolled back. A night that met half a YAML is run again at the end.
Then every champion was compared with its predecessor, every run has one YAML in its record and in
all of its outputs, and no two nights were at work at once.
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
"""Between two looks of a night that waits: twelve of them share the machine."""


def start(folder: Path, name: str, day: int, draw: random.Random, operations: int) -> Any:
    """Begin a night, with the YAML of this moment.

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
    """Run the nights of a case and check what is there after them; says what they were."""
    path = folder / "pipelines" / "p.yaml"
    path.parent.mkdir()
    path.write_text(chaos_edit.SPEC.format(epochs=1))
    asked = [(f"backfill-{day}", day) for day in range(WIDE)]
    asked += [(f"by-hand-{at}", draw.randint(WIDE // 2, WIDE + 1)) for at in range(2)]
    never = threading.Event()
    seeds = [draw.random() for _ in range(len(asked) + 2)]
    others = [
        in_child(partial(chaos_edit.edit, path, random.Random(seeds[0]), never),
                 folder / "edit.txt"),
        in_child(partial(chaos_edit.interfere, folder / "workspace", random.Random(seeds[1]),
                         never), folder / "person.txt"),
    ]  # fmt: skip
    refused = []
    try:
        begun = [
            (name, day, start(folder, name, day, random.Random(seed), operations))
            for (name, day), seed in zip(asked, seeds[2:], strict=True)
        ]
        for name, day, child in begun:
            code = ended(child)
            log = folder / f"{name}.txt"
            assert code in (0, OWN), f"{name}: {log.read_text() if log.exists() else code}"
            if code:
                refused.append((name, day))
    finally:
        for child in others:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    path.write_text(chaos_edit.SPEC.format(epochs=3))
    for name, day in refused:
        code = ended(start(folder, name, day, random.Random(0), operations))
        log = folder / f"{name}.txt"
        assert code == 0, f"{name} again: {log.read_text() if log.exists() else code}"
    return check(Workspace(str(folder / "workspace")), [name for name, _ in asked], len(refused))


def check(place: Workspace, names: list[str], refused: int) -> dict[str, Any]:
    """Check what all nights have left, and count the champions."""
    check_race(place)
    spans = []
    for name in names:
        run = RunRecord.load(place, "p", name)
        state, stage = state_of(run.head, run.current())
        assert state == "done", f"{name} is {state} at {stage}"
        check_minds(run)
        spans += [(each.started, each.started + dt.timedelta(seconds=each.seconds), name)
                  for each in run.records() if not each.reused]  # fmt: skip
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        assert first == second or end <= begin, f"{first} and {second} were at work at once"
    changes = [each.change for each in ChampionPointer(place, "p").history()]
    promotions, rollbacks = changes.count("promote"), changes.count("rollback")
    return {"what": f"{promotions} promotions, {rollbacks} rollbacks, {refused} met half a YAML",
            "promotions": promotions}  # fmt: skip


def cases(count: int, seed: int, done: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Run those that are not done yet.

    Args:
        count: How many there are.
        seed: Of their moments.
        done: Whether a case has been run before.
    """
    _, operations = reference()
    for number in range(count):
        if done(f"interleaving-{number}"):
            continue
        found: dict[str, Any] = {"what": ""}
        failure = ""
        with tempfile.TemporaryDirectory(prefix="nightbid-chaos-") as folder:
            try:
                draw = random.Random(f"{seed} interleaving {number}")
                found = play(Path(folder), draw, operations)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
        yield {"case": f"interleaving-{number}", "kind": "interleaving", **found,
               "failure": failure}  # fmt: skip
