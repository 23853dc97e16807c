"""The champion pointer: history, rollback, and two promotions at once."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from nightbid.errors import NightbidError
from nightbid.night.champion import ChampionPointer
from nightbid.storage.workspace import Workspace


def promote(pointer: ChampionPointer, name: str, day: int = 1):
    return pointer.promote(
        run_id=name,
        night=dt.date(2026, 1, day),
        bundle_uri=f"stages/{name}",
        bundle_digest=name,
        reason="better",
    )


def test_rollback_restores_the_one_before_and_keeps_history(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    assert pointer.current() is None
    promote(pointer, "first", 1)
    promote(pointer, "second", 2)
    restored = pointer.rollback(reason="latency")
    assert restored.run_id == "first"
    assert pointer.current() == restored
    assert [each.change for each in pointer.history()] == ["promote", "promote", "rollback"]
    again = ChampionPointer(Workspace(str(tmp_path)), "ctr").current()
    assert again == restored


def test_rollback_without_a_predecessor_says_so(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    with pytest.raises(NightbidError):
        pointer.rollback(reason="x")
    promote(pointer, "only")
    with pytest.raises(NightbidError):
        pointer.rollback(reason="x")


def test_concurrent_promotions_never_lose_one_silently(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")

    def attempt(number: int) -> bool:
        try:
            promote(pointer, f"run{number}")
        except NightbidError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        succeeded = sum(pool.map(attempt, range(24)))
    history = pointer.history()
    assert len(history) == succeeded >= 1
    assert [each.number for each in history] == list(range(1, succeeded + 1))
    assert pointer.current() == history[-1]


def test_two_rollbacks_go_two_steps_back(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    for number, name in enumerate(("first", "second", "third"), start=1):
        promote(pointer, name, number)
    assert pointer.rollback(reason="x").run_id == "second"
    assert pointer.rollback(reason="x").run_id == "first"
    assert pointer.rollback(reason="x", to=3).run_id == "third"
