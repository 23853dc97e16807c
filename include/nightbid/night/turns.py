"""One night of a pipeline at a time, held in the workspace.

A run that may begin takes the next number below `turns/<pipeline>/begun/`; taking it is exclusive,
so two runs never both begin. A run that has to wait is noted below `waiting/`, and of several the
earliest night goes first. Which runs are at work is not kept here: the caller knows (Airflow's own
record of its runs), so a run that died holds nobody up.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from nightbid.night.record import safe_run_id
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.storage.workspace import Workspace, read_all, remove, write_atomically, write_once

KEPT = 30
"""The newest turns: of these a run that is at work again (cleared by a person) is waited for."""


class Turn(Sealed):
    """A run that has begun, or waits to."""

    run_id: str
    date: dt.date
    """Night of the run."""


AtWork = Callable[[Sequence[str]], bool]
"""Whether at least one of these runs is at work now."""


class Turns:
    """The turns of one pipeline.

    Args:
        workspace: Where they are kept.
        pipeline: Name of the pipeline.
    """

    def __init__(self, workspace: Workspace, pipeline: str) -> None:
        self._folder = workspace.root / "turns" / pipeline

    def take(self, run_id: str, date: dt.date, at_work: AtWork, *, is_patient: bool = False) -> str:
        """Begin a run, unless another one has to end or to begin first.

        Asking again is safe: a run that holds the newest turn has begun.

        Args:
            run_id: The run.
            date: Its night.
            at_work: Whether one of some runs is at work.
            is_patient: Note the run as waiting and begin at a later call, so that runs that are
                started together go in the order of their nights.

        Returns:
            The run that is waited for, empty if this one has begun. A patient run that waits for
            nobody yet names itself.
        """
        mine = Turn(run_id=run_id, date=date)
        begun = self._begun()
        newest = max(begun, default=0)
        if newest and begun[newest].run_id == run_id:
            self._stop_waiting(run_id)
            return ""
        waiting = {
            each.run_id: each for each in self._read("waiting").values() if each.run_id != run_id
        }
        before = {each.run_id for number, each in begun.items() if number > newest - KEPT}
        # A run that was cleared and waits again holds nobody up, unless its turn is the newest.
        before -= {*waiting, run_id}
        if newest:
            before.add(begun[newest].run_id)
        earlier = [each for each in waiting.values() if _order(each) < _order(mine)]
        other = _first(sorted(before), at_work) or _first(
            [each.run_id for each in sorted(earlier, key=_order)], at_work
        )
        if other or is_patient:
            path = self._folder / "waiting" / f"{safe_run_id(run_id)}.json"
            write_atomically(path, seal(mine))
            return other or run_id
        try:
            write_once(self._folder / "begun" / f"{newest + 1:06d}.json", seal(mine))
        except FileExistsError:
            return self.take(run_id, date, at_work)
        self._stop_waiting(run_id)
        for number in begun:
            if number <= newest - KEPT:
                remove(self._folder / "begun" / f"{number:06d}.json")
        return ""

    def _begun(self) -> dict[int, Turn]:
        return {int(name.removesuffix(".json")): turn for name, turn in self._read("begun").items()}

    def _read(self, kind: str) -> dict[str, Turn]:
        folder = self._folder / kind
        return {
            name: unseal(Turn, text, folder / name, "delete this file")
            for name, text in read_all(folder, ".json").items()
            if kind != "begun" or name.removesuffix(".json").isdigit()
        }

    def _stop_waiting(self, run_id: str) -> None:
        remove(self._folder / "waiting" / f"{safe_run_id(run_id)}.json")


def _order(turn: Turn) -> tuple[dt.date, str]:
    return turn.date, turn.run_id


def _first(run_ids: Sequence[str], at_work: AtWork) -> str:
    """The first of some runs that is at work, empty if none is."""
    if not run_ids or not at_work(run_ids):
        return ""
    return next((each for each in run_ids if at_work([each])), "")
