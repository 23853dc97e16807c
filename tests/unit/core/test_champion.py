"""Tests the champion pointer: history, rollback, and two promotions at once."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError, CorruptDataError, NightbidError, PromotionRefused
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.pauses import PromotionPauses
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.night.reference import why_no_reference
from nightbid.storage.workspace import Workspace


def promote(pointer: ChampionPointer, name: str, day: int = 1):
    return pointer.promote(
        run_id=name,
        night=dt.date(2026, 1, day),
        bundle_uri=f"stages/{name}",
        bundle_digest=name,
        reason="better",
    )


def test_rollback_restores_the_previous_champion_and_keeps_history(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    assert pointer.current() is None
    promote(pointer, "first", 1)
    promote(pointer, "second", 2)
    restored = pointer.rollback(reason="latency")
    assert restored.run_id == "first"
    assert pointer.current() == restored
    assert [entry.change for entry in pointer.history()] == ["promote", "promote", "rollback"]
    again = ChampionPointer(Workspace(str(tmp_path)), "ctr").current()
    assert again == restored


def test_rollback_fails_without_a_previous_champion(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    with pytest.raises(NightbidError):
        pointer.rollback(reason="x")
    promote(pointer, "only")
    with pytest.raises(NightbidError):
        pointer.rollback(reason="x")


def test_concurrent_promotions_are_all_recorded_or_refused(tmp_path):
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
    assert [entry.number for entry in history] == list(range(1, succeeded + 1))
    assert pointer.current() == history[-1]


def test_concurrent_promotions_of_the_same_run_create_one_entry(tmp_path):
    for attempt in range(10):
        pointer = ChampionPointer(Workspace(str(tmp_path / str(attempt))), "ctr")

        def promote(_, pointer=pointer):
            return pointer.promote(
                run_id="r", night=dt.date(2026, 1, 8), bundle_uri="b", bundle_digest="d",
                reason="better", judged_against=0,
            ).number  # fmt: skip

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(promote, range(4))) == {1}
        assert len(pointer.history()) == 1


def test_two_rollbacks_go_two_steps_back(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    for number, name in enumerate(("first", "second", "third"), start=1):
        promote(pointer, name, number)
    assert pointer.rollback(reason="x").run_id == "second"
    assert pointer.rollback(reason="x").run_id == "first"
    assert pointer.rollback(reason="x", to=3).run_id == "third"


def test_promotion_is_refused_when_the_champion_changed_since_the_comparison(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    promote(pointer, "A", 1)

    def judged(name: str, against: int) -> Champion:
        return pointer.promote(
            run_id=name, night=dt.date(2026, 1, 2), bundle_uri=f"stages/{name}",
            bundle_digest=name, reason="neutral", judged_against=against,
        )  # fmt: skip

    # Two nights were compared with A: the second would replace the first unnoticed.
    assert judged("B", 1).number == 2
    with pytest.raises(PromotionRefused, match="against champion #1, but champion #2 serves"):
        judged("C", 1)
    # A night was compared with B, which a user then rolls back.
    pointer.rollback(reason="clicks fell")
    with pytest.raises(PromotionRefused, match="another --run-id"):
        judged("D", 2)
    # A model that was rolled back stays out until a user lets it serve.
    with pytest.raises(PromotionRefused, match="withdrawn by entry #3: clicks fell"):
        judged("B", 3)
    pointer.rollback(reason="it was the logs", to=2)
    assert [entry.run_id for entry in pointer.history()] == ["A", "B", "A", "B"]
    assert judged("E", 4).number == 5


def test_a_repeated_night_replaces_the_model_that_it_promoted_itself(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    promote(pointer, "A", 1)

    def judged(run_id: str, bundle: str, against: int, named: str) -> Champion:
        return pointer.promote(
            run_id=run_id, night=dt.date(2026, 1, 2), bundle_uri=f"stages/{bundle}",
            bundle_digest=bundle, reason="neutral", judged_against=against, judged_bundle=named,
        )  # fmt: skip

    # The run keeps the champion with which it began, also after its day was corrected twice.
    for number, bundle in enumerate(("wrong", "corrected", "corrected again"), start=2):
        assert judged("B", bundle, 1, "A").number == number
    before = pointer.before()
    assert before is not None
    assert before.run_id == "A", "a rollback does not return to the model of the wrong day"
    with pytest.raises(PromotionRefused, match="against champion #1, but champion #4 serves"):
        judged("C", "C", 1, "A")
    assert judged("C", "C", 4, "corrected again").number == 5
    # Another night was promoted since.
    with pytest.raises(PromotionRefused, match="against champion #1, but champion #5 serves"):
        judged("B", "too late", 1, "A")
    # A user's decision stands between: it is not undone.
    pointer.rollback(reason="clicks fell", to=4)
    with pytest.raises(PromotionRefused, match="against champion #1, but champion #6 serves"):
        judged("B", "too late", 1, "A")
    first = ChampionPointer(Workspace(str(tmp_path)), "other")
    for bundle in ("wrong", "corrected"):
        first.promote(
            run_id="first", night=dt.date(2026, 1, 2), bundle_uri="x", bundle_digest=bundle,
            reason="better than the baseline", judged_against=0,
        )  # fmt: skip
    assert first.current().bundle_digest == "corrected"


def test_promotion_is_refused_when_a_restored_history_reuses_the_number(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    for number, name in enumerate("ABC", start=1):
        promote(pointer, name, number)
    history = tmp_path / "champion" / "ctr" / "history"
    (history / "000003.json").unlink()  # a backup from before C's promotion
    promotion = {"night": dt.date(2026, 1, 9), "reason": "better", "judged_against": 3,
             "judged_bundle": "C"}  # fmt: skip
    with pytest.raises(PromotionRefused, match="against champion #3, but champion #2 serves"):
        pointer.promote(run_id="D", bundle_uri="stages/D", bundle_digest="D", **promotion)
    promote(pointer, "X", 4)
    assert pointer.current().number == 3
    with pytest.raises(PromotionRefused, match="but champion #3 of another run"):
        pointer.promote(run_id="D", bundle_uri="stages/D", bundle_digest="D", **promotion)
    assert pointer.current().run_id == "X"


def test_a_retired_champion_is_neither_served_nor_compared_with(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    for number, name in enumerate(("A", "leaky", "C"), start=1):
        promote(pointer, name, number)
    # Retiring another champion changes nothing for the scorer or for a night in progress.
    entry = pointer.retire(2, "it read the install time")
    assert (entry.number, entry.run_id, entry.change) == (4, "C", "retire")
    serving = pointer.current()
    assert serving is not None
    assert [earlier.run_id for earlier in pointer.earlier(serving, dt.date(2026, 1, 1))] == ["A"]
    with pytest.raises(ConfigError, match="retired already, by #4: it read the install time"):
        pointer.retire(2, "again")
    with pytest.raises(ConfigError, match="no champion with number 9"):
        pointer.retire(9, "x")
    promoted = pointer.promote(
        run_id="D", night=dt.date(2026, 1, 4), bundle_uri="stages/D", bundle_digest="D",
        reason="better", judged_against=3,
    )  # fmt: skip
    # Retiring the live champion restores the last promotion that is not retired.
    assert pointer.retire(promoted.number, "wrong label").run_id == "C"
    assert pointer.retire(3, "wrong label").run_id == "A"
    # After the last one is retired, nothing serves.
    assert not pointer.retire(1, "wrong label").serves
    assert pointer.current() is None
    assert pointer.promote(
        run_id="E", night=dt.date(2026, 1, 5), bundle_uri="stages/E", bundle_digest="E",
        reason="better than the baseline", judged_against=0,
    ).run_id == "E"  # fmt: skip
    with pytest.raises(NightbidError, match="no earlier champion"):
        pointer.rollback(reason="x")
    # A user may still undo the retirement.
    assert pointer.rollback(reason="it was fine", to=1).run_id == "A"


def test_promotion_is_refused_while_paused_and_rollback_still_works(tmp_path):
    workspace = Workspace(str(tmp_path))
    pointer, pauses = ChampionPointer(workspace, "ctr"), PromotionPauses(workspace, "ctr")
    promote(pointer, "A", 1)
    pauses.start("the holidays")
    with pytest.raises(PromotionRefused, match=r"paused since .*: the holidays"):
        promote(pointer, "B", 2)
    pauses.end()
    assert promote(pointer, "B", 2).number == 2
    pauses.start("again")
    assert pointer.rollback(reason="latency").run_id == "A"


def test_a_champion_of_another_label_is_not_used_as_reference(tmp_path):
    workspace = Workspace(str(tmp_path))
    pointer = ChampionPointer(workspace, "ctr")
    base = {"pipeline": "ctr", "features": {"site_id": "vocabulary"}}
    clicks = PipelineSpec.model_validate(base)
    conversions = PipelineSpec.model_validate({**base, "label": {"column": "conversion"}})
    # An entry of an older version has no label: its run record supplies it.
    RunRecord.start(workspace, clicks, dt.date(2026, 1, 1), run_id="A")
    old = promote(pointer, "A", 1)
    new = pointer.promote(
        run_id="B", night=dt.date(2026, 1, 2), bundle_uri="stages/B", bundle_digest="B",
        reason="better", label=clicks.label.model_dump(mode="json"),
    )  # fmt: skip
    tonight = RunRecord.start(workspace, conversions, dt.date(2026, 1, 3))
    for champion in (old, new):
        assert why_no_reference(tonight, champion, clicks) == ""
        assert "(column 'click', now 'conversion'): compared with the baseline" in (
            why_no_reference(tonight, champion, conversions)
        )
    # A run that is gone supplies no label: the champion stays the reference.
    gone = promote(pointer, "C", 3)
    assert why_no_reference(tonight, gone, conversions) == ""


@pytest.mark.parametrize("mode", ["full", "incremental"])
def test_a_champion_that_has_learned_the_evaluated_days_is_not_used_as_reference(tmp_path, mode):
    workspace = Workspace(str(tmp_path))
    base = {"pipeline": "ctr", "features": {"site_id": "vocabulary"}, "train": {"mode": mode}}
    spec = PipelineSpec.model_validate(base)
    # It has learned the days from 14 to 18 January and was validated on 19 January.
    RunRecord.start(workspace, spec, dt.date(2026, 1, 20), run_id="A")
    champion = promote(ChampionPointer(workspace, "ctr"), "A", 20)

    def why(night: int, **window: int) -> str:
        changed = PipelineSpec.model_validate({**base, "window": window})
        tonight = RunRecord.start(
            workspace, changed, dt.date(2026, 1, night), run_id=f"n{night}-{len(window)}"
        )
        return why_no_reference(tonight, champion, changed)

    assert why(20) == why(21) == ""
    for day in (19, 18, 14):
        assert f"it has learned 2026-01-{day}: compared with the baseline" in why(day)
    assert "it has learned 2026-01-18 and 2026-01-19" in why(20, evaluate_days=3)
    # Weights of incremental nights come from days before the window, too.
    assert bool(why(13)) == (mode == "incremental")


def test_a_damaged_history_entry_is_reported_with_its_file(tmp_path):
    pointer = ChampionPointer(Workspace(str(tmp_path)), "ctr")
    promote(pointer, "A", 1)
    (entry,) = tmp_path.glob("champion/ctr/history/*.json")
    entry.write_text(entry.read_text().replace("better", "worse!"))
    with pytest.raises(CorruptDataError, match=r"000001\.json: .*checksum"):
        pointer.current()


def test_run_ids_are_rejected_or_mapped_to_distinct_safe_names():
    for bad in ("", ".", "..", ".hidden"):
        with pytest.raises(ConfigError):
            safe_run_id(bad)
    names = [safe_run_id(name) for name in ("a/b", "a b", "a-b", "x" * 121, "x" * 122)]
    assert len(set(names)) == 5
    assert not any("/" in name for name in names)
    assert safe_run_id("manual__2026-01-08T00:00:00+00:00") == "manual__2026-01-08T00-00-00-00-00"
