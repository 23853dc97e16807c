"""Nights that race each other and a user who rolls back, retires and pauses: see `chaos.py`."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from datetime import date
from functools import partial
from pathlib import Path

from nightbid.cost.ledger import Ledger
from nightbid.errors import NightbidError
from nightbid.night.champion import ChampionPointer
from nightbid.night.pauses import PromotionPauses
from nightbid.night.record import RunRecord
from nightbid.night.reference import pinned_champion
from nightbid.storage.workspace import Workspace

sys.path.append(str(Path(__file__).parent))
import chaos_night
from chaos import OTHER, ended, in_child


def race(workspace: Path, log: Path, draw: random.Random) -> str:
    """Run several nights at once while a user interferes; return a description.

    Args:
        workspace: The case's workspace.
        log: File for unexpected tracebacks.
        draw: The case's random generator.
    """
    if draw.random() < 0.7:
        chaos_night.night(workspace, date(2026, 1, 6), "first")
    nights = [(date(2026, 1, draw.choice((7, 8, 9))), f"night-{number}")
              for number in range(draw.randint(2, 4))]  # fmt: skip
    actions = [(draw.choice(("rollback", "retire", "pause", "resume")), draw.uniform(0, 0.5))
            for _ in range(draw.randint(0, 6))]  # fmt: skip

    def interfere() -> None:
        place = Workspace(str(workspace))
        pointer, pauses = ChampionPointer(place, "p"), PromotionPauses(place, "p")
        for action, seconds in actions:
            time.sleep(seconds)
            with contextlib.suppress(NightbidError):
                if action == "rollback":
                    pointer.rollback("chaos", by="chaos")
                elif action == "retire":
                    pointer.retire(len(pointer.history()), "chaos", by="chaos")
                elif action == "pause":
                    pauses.start("chaos", "chaos")
                else:
                    pauses.end("chaos")

    def one(of: date, run_id: str, seconds: float) -> None:
        time.sleep(seconds)
        chaos_night.night(workspace, of, run_id)

    tasks = [partial(one, of, run_id, draw.uniform(0, 0.3)) for of, run_id in nights]
    for child in [in_child(work, log) for work in (*tasks, interfere)]:
        assert ended(child) != OTHER, log.read_text()
    for of, run_id in nights:
        chaos_night.night(workspace, of, run_id)
    return f"{len(nights)} nights, {[action for action, _ in actions]}"


def check_race(place: Workspace, pipeline: str = "p") -> None:
    """Check that each promotion replaced the champion it was compared with, and revived nothing."""
    history = ChampionPointer(place, pipeline).history()
    assert [change.number for change in history] == list(range(1, len(history) + 1))
    withdrawn: set[str] = set()
    for before, entry in zip([None, *history], history, strict=False):
        serving = before.bundle_digest if before is not None and before.serves else ""
        if entry.change == "promote":
            assert entry.bundle_digest not in withdrawn, f"#{entry.number} was withdrawn"
            pinned = pinned_champion(RunRecord.load(place, pipeline, entry.run_id))
            judged = pinned.bundle_digest if pinned is not None else ""
            assert judged == serving, f"#{entry.number} was judged against another champion"
        elif serving and (not entry.serves or entry.bundle_digest != serving):
            withdrawn.add(serving)
            withdrawn.discard(entry.bundle_digest if entry.change == "rollback" else "")
    keys = [entry.key for entry in Ledger(place).entries()]
    assert len(keys) == len(set(keys)), "an entry is counted twice"
