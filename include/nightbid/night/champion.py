"""The champion: a pointer that is swapped in one step, with its whole history.

Every promotion and rollback appends one numbered entry to `history/`; the newest is the champion.
Taking the next number is exclusive, so two promotions cannot both win. `champion.json` is a copy
of the newest entry, for people and scripts.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Literal

from nightbid.errors import ConcurrentUpdateError, ConfigError, PromotionRefused
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.storage.workspace import (
    Workspace,
    read_all,
    remove,
    write_atomically,
    write_newest,
    write_once,
)

RERUN_UNDER_NEW_ID = "run the night again under another --run-id: it meets what serves now"
RESTORE = "restore this file from a backup: nothing is promoted over a history that is damaged"


class Champion(Sealed):
    """Which model serves, since when, and why."""

    pipeline: str
    number: int
    """Position in the history, from 1."""
    run_id: str
    night: date
    bundle_uri: str
    """The exported bundle: model, fitted features, statistics."""
    bundle_digest: str
    since: datetime
    change: Literal["promote", "rollback"]
    reason: str
    by: str = ""
    """Person who rolled back, or approved the promotion; empty if a night promoted by itself."""


class Pause(Sealed):
    """Nothing is promoted for now, at a user's request."""

    reason: str
    since: datetime
    by: str = ""
    """Person who paused them."""


class ChampionPointer:
    """Reads and moves the pointer of one pipeline."""

    def __init__(self, workspace: Workspace, pipeline: str) -> None:
        self._folder = workspace.champion_folder(pipeline)
        self._pipeline = pipeline

    def current(self) -> Champion | None:
        """The champion, or None before the first promotion."""
        history = self.history()
        return history[-1] if history else None

    def history(self) -> list[Champion]:
        """All changes, oldest first."""
        found = read_all(self._folder / "history", ".json")
        return [
            unseal(Champion, found[name], self._folder / "history" / name, RESTORE)
            for name in sorted(found)
        ]

    def paused(self) -> Pause | None:
        """Who stopped promotions, when and why; None while they go on."""
        name = "paused.json"
        found = read_all(self._folder, ".json").get(name)
        if found is None:
            return None
        return unseal(
            Pause, found, self._folder / name, f"run `nightbid champion resume {self._pipeline}`"
        )

    def pause(self, reason: str, by: str = "") -> Pause:
        """Promote nothing until `resume`; rollbacks go on.

        Args:
            reason: Why; shown with the champion.
            by: Person who decided it.
        """
        pause = Pause(reason=reason, since=datetime.now(UTC), by=by)
        write_atomically(self._folder / "paused.json", seal(pause))
        return pause

    def resume(self) -> None:
        """Let nights promote again."""
        remove(self._folder / "paused.json")

    def withdrawn(self) -> dict[str, Champion]:
        """Bundles that a person took out of service: digest → the entry that did so.

        A rollback to a bundle is a decision that it may serve again.
        """
        found: dict[str, Champion] = {}
        before: Champion | None = None
        for each in self.history():
            if before is not None and each.change != "promote":
                found[before.bundle_digest] = each
            if each.change == "rollback":
                found.pop(each.bundle_digest, None)
            before = each
        return found

    def promote(
        self,
        *,
        run_id: str,
        night: date,
        bundle_uri: str,
        bundle_digest: str,
        reason: str,
        judged_against: int | None = None,
        by: str = "",
    ) -> Champion:
        """Point at a new bundle. Promoting the bundle that already serves changes nothing.

        Args:
            run_id: of the candidate.
            night: of the candidate.
            bundle_uri: its bundle.
            bundle_digest: digest of the bundle.
            reason: kept in the history.
            judged_against: number of the champion that it was compared with, 0 for none. The
                champion must still be that one, and no user may have withdrawn the bundle. None: a
                user promotes by hand, and neither is checked.
            by: Person who approved it, if one was asked.

        Raises:
            PromotionRefused: promotions are paused, another champion serves than the one judged
                against, or a person withdrew this bundle.
            ConcurrentUpdateError: another promotion came first.
        """
        history = self.history()
        current = history[-1] if history else None
        if current and current.bundle_digest == bundle_digest and current.run_id == run_id:
            return current
        if (pause := self.paused()) is not None:
            raise PromotionRefused(
                f"promotions are paused since {pause.since:%Y-%m-%d %H:%M} UTC: {pause.reason}",
                where=self._pipeline,
                hint=f"`nightbid champion resume {self._pipeline}`, then {RERUN_UNDER_NEW_ID}",
            )
        word = self.withdrawn().get(bundle_digest) if judged_against is not None else None
        if word is not None:
            raise PromotionRefused(
                f"this bundle was withdrawn by entry #{word.number}: {word.reason}",
                where=self._pipeline,
                hint="`nightbid rollback --to NUMBER --reason …` lets it serve again",
            )
        number = current.number if current else 0
        if judged_against is not None and judged_against != number:
            raise PromotionRefused(
                f"judged against {_named(judged_against)}, but {_named(number)} serves now",
                where=self._pipeline,
                hint=RERUN_UNDER_NEW_ID,
            )
        return self._append(
            history, "promote", run_id, night, bundle_uri, bundle_digest, reason, by
        )

    def rollback(self, reason: str, to: int | None = None, by: str = "") -> Champion:
        """Point again at what served before, or at history entry `to`.

        Args:
            reason: Why; kept in the history.
            to: Number of the entry; default: the promotion before the one that serves.
            by: Person who decided it; kept in the history.

        Raises:
            ConfigError: there is nothing to go back to.
        """
        history = self.history()
        if to is None:
            target = _before(history)
        else:
            target = next((each for each in history if each.number == to), None)
        if target is None:
            raise ConfigError(
                f"no earlier champion{f' with number {to}' if to else ''} to go back to",
                where=self._pipeline,
                hint=f"see `nightbid champion {self._pipeline}` for the history",
            )
        return self._append(
            history,
            "rollback",
            target.run_id,
            target.night,
            target.bundle_uri,
            target.bundle_digest,
            reason,
            by,
        )

    def _append(
        self,
        history: list[Champion],
        change: Literal["promote", "rollback"],
        run_id: str,
        night: date,
        bundle_uri: str,
        bundle_digest: str,
        reason: str,
        by: str,
    ) -> Champion:
        # The number after what was judged by: a promotion in between has taken it.
        number = history[-1].number + 1 if history else 1
        entry = Champion(
            pipeline=self._pipeline,
            number=number,
            run_id=run_id,
            night=night,
            bundle_uri=bundle_uri,
            bundle_digest=bundle_digest,
            since=datetime.now(UTC),
            change=change,
            reason=reason,
            by=by,
        )
        path = self._folder / "history" / f"{number:06d}.json"
        try:
            write_once(path, seal(entry))
        except FileExistsError as error:
            raise ConcurrentUpdateError(
                f"history entry {number} was taken by somebody else",
                where=self._pipeline,
                hint="look at `nightbid champion` and promote again if it is still wanted",
            ) from error
        write_newest(self._folder / "champion.json", self._newest)
        return entry

    def _newest(self) -> str:
        return seal(self.history()[-1])


def _named(number: int) -> str:
    return f"champion #{number}" if number else "no champion"


def _before(history: list[Champion]) -> Champion | None:
    """Find the promotion that came before the serving bundle's own: two rollbacks go two steps."""
    if not history:
        return None
    serving = history[-1].bundle_digest
    promoted = [each for each in history if each.change == "promote"]
    own = max((each.number for each in promoted if each.bundle_digest == serving), default=0)
    earlier = [e for e in promoted if e.number < own and e.bundle_digest != serving]
    return earlier[-1] if earlier else None
