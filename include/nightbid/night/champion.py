"""The champion: a pointer that is moved atomically, with its full history.

Every promotion, rollback and retirement appends one numbered entry to `history/`; the newest entry
states what serves. Taking the next number is exclusive, so two promotions cannot both succeed.
`champion.json` is a copy of the newest entry, for users and scripts.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal

from nightbid.errors import ConcurrentUpdateError, ConfigError, PromotionRefused
from nightbid.night.pauses import PromotionPauses
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.partitions import Partition
from nightbid.storage.files import read_all, write_newest, write_once
from nightbid.storage.workspace import Workspace

RERUN_UNDER_NEW_ID = (
    "run the night again under another --run-id: it is compared with what serves now"
)
RESTORE = "restore this file from a backup: nothing is promoted while the history is damaged"


class Champion(Sealed):
    """An entry of the history: which model serves, since when, and why."""

    pipeline: str
    number: int
    """Position of the entry in the history, from 1."""
    run_id: str
    night: Partition
    bundle_uri: str
    """The exported bundle: model, fitted features, statistics."""
    bundle_digest: str
    since: datetime
    change: Literal["promote", "rollback", "retire"]
    reason: str
    by: str = ""
    """User who rolled back or approved the promotion; empty if no user was involved."""
    retired: str = ""
    """For `retire`: digest of the bundle that may no longer serve or be compared with."""
    label: dict[str, object] | None = None
    """The `label` block of the pipeline that trained it; None in older entries."""

    @property
    def serves(self) -> bool:
        """False if nothing serves after this entry, because the only champion was retired."""
        return bool(self.bundle_uri)


class ChampionPointer:
    """Reads and moves the pointer of one pipeline."""

    def __init__(self, workspace: Workspace, pipeline: str) -> None:
        self._folder = workspace.champion_folder(pipeline)
        self._pipeline = pipeline
        self._pauses = PromotionPauses(workspace, pipeline)

    def current(self) -> Champion | None:
        """The champion; None before the first promotion, or if the last champion was retired."""
        history = self.history()
        return history[-1] if history and history[-1].serves else None

    def history(self) -> list[Champion]:
        """All changes, oldest first."""
        texts = read_all(self._folder / "history", ".json")
        return [
            unseal(Champion, texts[name], self._folder / "history" / name, RESTORE)
            for name in sorted(texts)
        ]

    def withdrawn(self) -> dict[str, Champion]:
        """Bundles that a user took out of service: digest → the entry that did so.

        A rollback to a bundle allows it to serve again.
        """
        return _withdrawn(self.history())

    def earlier(self, before: Champion, since: date) -> list[Champion]:
        """Earlier promotions that a candidate can also be compared with, oldest first.

        Args:
            before: The champion; entries after it are left out.
            since: Earliest night of the promotions to return.

        Returns:
            One entry per bundle that was promoted before the champion and is not withdrawn.
        """
        history = self.history()
        withdrawn = {before.bundle_digest, *_withdrawn(history)}
        by_digest: dict[str, Champion] = {}
        for entry in history:
            if entry.change == "promote" and entry.number < before.number and entry.night >= since:
                by_digest[entry.bundle_digest] = entry
        return [entry for digest, entry in by_digest.items() if digest not in withdrawn]

    def before(self) -> Champion | None:
        """Promotion that a rollback would return to; None if there is none."""
        return _before(self.history())

    def promote(
        self,
        *,
        run_id: str,
        night: date,
        bundle_uri: str,
        bundle_digest: str,
        reason: str,
        judged_against: int | None = None,
        judged_bundle: str = "",
        by: str = "",
        label: dict[str, object] | None = None,
    ) -> Champion:
        """Make a bundle the champion. Promoting the bundle that already serves changes nothing.

        Args:
            run_id: Run of the candidate.
            night: Night of the candidate.
            bundle_uri: Address of the candidate's bundle.
            bundle_digest: Digest of the bundle.
            reason: Reason, recorded in the history.
            judged_against: Number of the champion that the candidate was compared with, 0 for none.
                That champion must still serve, or have served until this run promoted an earlier
                version of the candidate, and no user may have withdrawn the bundle. None: a user
                promotes manually, and neither is checked.
            judged_bundle: Digest of that champion's bundle, since its number may belong to another
                bundle in a history that was restored from a backup. Empty: not checked.
            by: User who approved the promotion, if approval was required.
            label: The `label` block of the candidate's pipeline.

        Raises:
            PromotionRefused: Promotions are paused, another champion serves than the one judged
                against, or a user withdrew this bundle.
            ConcurrentUpdateError: Another promotion was faster.
        """
        history = self.history()
        current = history[-1] if history and history[-1].serves else None
        if current and current.bundle_digest == bundle_digest and current.run_id == run_id:
            return current
        if (pause := self._pauses.current()) is not None:
            raise PromotionRefused(
                f"promotions are paused since {pause.since:%Y-%m-%d %H:%M} UTC: {pause.reason}",
                where=self._pipeline,
                hint=f"`nightbid champion resume {self._pipeline}`, then {RERUN_UNDER_NEW_ID}",
            )
        withdrawal = _withdrawn(history).get(bundle_digest) if judged_against is not None else None
        if withdrawal is not None:
            raise PromotionRefused(
                f"this bundle was withdrawn by entry #{withdrawal.number}: {withdrawal.reason}",
                where=self._pipeline,
                hint=f"`nightbid rollback {self._pipeline} --to NUMBER --reason …` lets it serve"
                " again",
            )
        number = current.number if current else 0
        if judged_against is not None and not any(
            _was_judged(entries, judged_against, judged_bundle)
            for entries in (history, _without_newest_of(run_id, history))
        ):
            now = _named(number) + " of another run" * (number == judged_against)
            raise PromotionRefused(
                f"judged against {_named(judged_against)}, but {now} serves now",
                where=self._pipeline,
                hint=RERUN_UNDER_NEW_ID,
            )
        try:
            return self._append(
                history,
                change="promote",
                run_id=run_id,
                night=night,
                bundle_uri=bundle_uri,
                bundle_digest=bundle_digest,
                reason=reason,
                by=by,
                label=label,
            )
        except ConcurrentUpdateError:
            # Another process of the same run was faster, for example after a worker was presumed
            # lost.
            serving = self.current()
            if serving and serving.bundle_digest == bundle_digest and serving.run_id == run_id:
                return serving
            raise

    def rollback(self, reason: str, to: int | None = None, by: str = "") -> Champion:
        """Return to the previous champion, or to history entry `to`.

        Args:
            reason: Reason, recorded in the history.
            to: Number of the entry; None: the promotion before the current one.
            by: User who made the decision, recorded in the history.

        Raises:
            ConfigError: There is no such entry, or no earlier promotion.
        """
        history = self.history()
        if to is None:
            target = _before(history)
        else:
            target = next((entry for entry in history if entry.number == to and entry.serves), None)
        if target is None:
            named = "" if to is None else f" with number {to}"
            raise ConfigError(
                f"no earlier champion{named} to go back to",
                where=self._pipeline,
                hint=f"see `nightbid champion {self._pipeline}` for the history",
            )
        return self._append(history, **_serving(target), change="rollback", reason=reason, by=by)

    def retire(self, number: int, reason: str, by: str = "") -> Champion:
        """Take the bundle of a history entry out of service permanently.

        Later nights are not compared with it. If it serves, the newest earlier promotion that is
        not withdrawn serves instead; if there is none, nothing serves and the next night is
        compared with the baseline.

        Args:
            number: Number of the entry.
            reason: Reason, recorded in the history.
            by: User who made the decision, recorded in the history.

        Raises:
            ConfigError: There is no such entry, or its bundle is already retired.
        """
        history = self.history()
        target = next((entry for entry in history if entry.number == number and entry.serves), None)
        if target is None:
            raise ConfigError(
                f"no champion with number {number} to retire",
                where=self._pipeline,
                hint=f"see `nightbid champion {self._pipeline}` for the history",
            )
        entry = _withdrawn(history).get(target.bundle_digest)
        if entry is not None and entry.change == "retire":
            raise ConfigError(
                f"the bundle of #{number} is retired already, by #{entry.number}: {entry.reason}",
                where=self._pipeline,
                hint=f"see `nightbid champion {self._pipeline}` for the history",
            )
        serving = history[-1]
        if serving.serves and serving.bundle_digest == target.bundle_digest:
            serving = _before(history) or serving.model_copy(
                update={
                    "run_id": "", "night": target.night, "bundle_uri": "", "bundle_digest": "",
                    "label": None,
                }
            )  # fmt: skip
        return self._append(
            history,
            **_serving(serving),
            change="retire",
            reason=reason,
            by=by,
            retired=target.bundle_digest,
        )

    def _append(self, history: list[Champion], **entry_of: Any) -> Champion:
        # The number after the history that was read: a promotion in between has taken it.
        number = history[-1].number + 1 if history else 1
        entry = Champion(
            pipeline=self._pipeline, number=number, since=datetime.now(UTC), **entry_of
        )
        path = self._folder / "history" / f"{number:06d}.json"
        try:
            write_once(path, seal(entry))
        except FileExistsError as error:
            raise ConcurrentUpdateError(
                f"history entry {number} was taken by another process",
                where=self._pipeline,
                hint=f"check `nightbid champion {self._pipeline}` and promote again if you still"
                " want to",
            ) from error
        write_newest(self._folder / "champion.json", self._newest)
        return entry

    def _newest(self) -> str:
        return seal(self.history()[-1])


def _named(number: int) -> str:
    return f"champion #{number}" if number else "no champion"


def _serving(entry: Champion) -> dict[str, Any]:
    """Fields of an entry that describe the model, without number, time and reason."""
    fields = ("run_id", "night", "bundle_uri", "bundle_digest", "label")
    return {name: getattr(entry, name) for name in fields}


def _without_newest_of(run_id: str, history: list[Champion]) -> list[Champion]:
    """Leave out what a run promoted last: repeated after a correction, it replaces its own model.

    Its candidate was judged against the champion that served when the run began.
    """
    end = len(history)
    while end and (history[end - 1].run_id, history[end - 1].change) == (run_id, "promote"):
        end -= 1
    return history[:end]


def _was_judged(history: list[Champion], against: int, bundle: str) -> bool:
    """Whether a candidate was judged against the last champion of a history; 0 means none."""
    current = history[-1] if history and history[-1].serves else None
    if bundle and current and current.bundle_digest != bundle:
        return False
    return _is_same(history, against, current.number if current else 0)


def _is_same(history: list[Champion], judged: int, serving: int) -> bool:
    """Whether two entries (0: none) name the same model; retiring another model is no change."""
    if judged == serving:
        return True
    bundles = {entry.number: entry.bundle_digest for entry in history}
    between = [entry for entry in history if judged < entry.number <= serving]
    return bundles.get(judged) == bundles.get(serving) and all(
        entry.change == "retire" for entry in between
    )


def _withdrawn(history: list[Champion]) -> dict[str, Champion]:
    withdrawals: dict[str, Champion] = {}
    before: Champion | None = None
    for entry in history:
        if entry.change == "retire":
            withdrawals[entry.retired] = entry
        elif entry.change == "rollback":
            if before is not None and before.serves:
                withdrawals.setdefault(before.bundle_digest, entry)
            withdrawals.pop(entry.bundle_digest, None)
        before = entry
    return withdrawals


def _before(history: list[Champion]) -> Champion | None:
    """Find the promotion before the serving bundle's, so that two rollbacks go two steps."""
    if not history:
        return None
    serving = history[-1].bundle_digest
    promoted = [entry for entry in history if entry.change == "promote"]
    same = [entry for entry in promoted if entry.bundle_digest == serving]
    own, run_id = (same[-1].number, same[-1].run_id) if same else (0, "")
    retired = {digest for digest, entry in _withdrawn(history).items() if entry.change == "retire"}
    earlier = [
        entry
        for entry in promoted
        if (entry.number < own or not serving)
        and entry.bundle_digest != serving
        and entry.run_id != run_id  # an earlier version, which a repeated night has replaced
        and entry.bundle_digest not in retired
    ]
    return earlier[-1] if earlier else None
