"""Nights that race each other and a person who rolls back, retires and pauses: see `chaos.py`."""

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
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

sys.path.append(str(Path(__file__).parent))
import chaos_night
from chaos import OTHER, ended, in_child


def race(workspace: Path, log: Path, draw: random.Random) -> str:
    """Run several nights at once beside a person who interferes; says how many of each.

    Args:
        workspace: Of the case.
        log: For what a process could not foresee.
        draw: Of the case.
    """
    if draw.random() < 0.7:
        chaos_night.night(workspace, date(2026, 1, 6), "first")
    nights = [(date(2026, 1, draw.choice((7, 8, 9))), f"night-{at}")
              for at in range(draw.randint(2, 4))]  # fmt: skip
    acts = [(draw.choice(("rollback", "retire", "pause", "resume")), draw.uniform(0, 0.5))
            for _ in range(draw.randint(0, 6))]  # fmt: skip

    def interfere() -> None:
        pointer = ChampionPointer(Workspace(str(workspace)), "p")
        for act, seconds in acts:
            time.sleep(seconds)
            with contextlib.suppress(NightbidError):
                if act == "rollback":
                    pointer.rollback("chaos", by="chaos")
                elif act == "retire":
                    pointer.retire(len(pointer.history()), "chaos", by="chaos")
                elif act == "pause":
                    pointer.pause("chaos", "chaos")
                else:
                    pointer.resume("chaos")

    def one(of: date, run_id: str, seconds: float) -> None:
        time.sleep(seconds)
        chaos_night.night(workspace, of, run_id)

    works = [partial(one, of, run_id, draw.uniform(0, 0.3)) for of, run_id in nights]
    for child in [in_child(work, log) for work in (*works, interfere)]:
        assert ended(child) != OTHER, log.read_text()
    for of, run_id in nights:
        chaos_night.night(workspace, of, run_id)
    return f"{len(nights)} nights, {[act for act, _ in acts]}"


def check_race(place: Workspace, pipeline: str = "p") -> None:
    """Check that each promotion replaced what it was judged against, and revived nothing."""
    history = ChampionPointer(place, pipeline).history()
    assert [each.number for each in history] == list(range(1, len(history) + 1))
    withdrawn: set[str] = set()
    for before, entry in zip([None, *history], history, strict=False):
        serving = before.bundle_digest if before is not None and before.serves else ""
        if entry.change == "promote":
            assert entry.bundle_digest not in withdrawn, f"#{entry.number} was withdrawn"
            pinned = RunRecord.load(place, pipeline, entry.run_id).pinned_champion()
            judged = pinned.bundle_digest if pinned is not None else ""
            assert judged == serving, f"#{entry.number} was judged against another champion"
        elif serving and (not entry.serves or entry.bundle_digest != serving):
            withdrawn.add(serving)
            withdrawn.discard(entry.bundle_digest if entry.change == "rollback" else "")
    keys = [each.key for each in Ledger(place).entries()]
    assert len(keys) == len(set(keys)), "an entry is counted twice"
