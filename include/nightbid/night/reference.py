"""The champion that a run's candidate is compared with: pinned once, and only if comparable."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

from pydantic import ValidationError

from nightbid.config.pipeline import Label, Night, PipelineSpec
from nightbid.errors import NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.head import GONE
from nightbid.night.record import RunRecord
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.storage.files import write_once
from nightbid.storage.workspace import Workspace


class Pin(Sealed):
    """Champion that a run compares with, pinned so that a rerun uses the same one."""

    champion: Champion | None


def pinned_champion(run: RunRecord) -> Champion | None:
    """Return the champion at the time when a run first looked it up; None if there was none."""
    path = run.folder / "champion.json"
    if not path.exists():
        pin = Pin(champion=ChampionPointer(run.workspace, run.head.pipeline).current())
        with suppress(FileExistsError):  # another process of this run was faster: use its pin
            write_once(path, seal(pin))
    return unseal(Pin, path.read_bytes(), path, GONE).champion


def why_no_reference(run: RunRecord, champion: Champion, spec: PipelineSpec) -> str:
    """Explain why a candidate cannot be compared with a champion; empty if it can.

    Their `label` blocks must be equal: models of conversions and of clicks are not comparable. The
    champion must not have learned the rows of the evaluation, as it has if the night is older.

    Args:
        run: Run of the candidate.
        champion: Champion of the same pipeline.
        spec: Settings of the candidate.
    """
    if days := learned_days(run.workspace, champion, Night.of(spec, run.date)):
        return (
            f"champion #{champion.number} cannot be the reference, it has learned"
            f" {' and '.join(map(str, days))}: compared with the baseline"
        )
    champion_label = _label_of(champion, run)
    label = spec.label.model_dump(mode="json")
    if champion_label is None:
        return ""
    # The distribution of a value does not change what is predicted.
    changed = ", ".join(
        f"{key} {champion_label.get(key)!r}, now {value!r}"
        for key, value in label.items()
        if key != "distribution" and champion_label.get(key) != value
    )
    if not changed:
        return ""
    return (
        f"champion #{champion.number} cannot be the reference, its label was different "
        f"({changed}): compared with the baseline"
    )


def learned_days(workspace: Workspace, champion: Champion, night: Night) -> list[dt.date]:
    """Days of a night's evaluation that a champion was trained or validated on, oldest first."""
    if champion.night <= night.evaluate[0]:
        return []
    try:
        head = RunRecord.load(workspace, champion.pipeline, champion.run_id).head
        spec = PipelineSpec.model_validate(head.spec)
    except (NightbidError, ValidationError):
        return []
    theirs = Night.of(spec, champion.night)
    if spec.train.mode != "full":  # its weights come from earlier nights with windows of their own
        return [day for day in night.evaluate if day <= theirs.validate_[-1]]
    return [day for day in night.evaluate if day in {*theirs.train, *theirs.validate_}]


def _label_of(champion: Champion, run: RunRecord) -> dict[str, object] | None:
    label = champion.label
    if label is None:
        # An entry of an older version: look up the label in its run.
        try:
            spec = RunRecord.load(run.workspace, run.head.pipeline, champion.run_id).head.spec
        except NightbidError:
            return None
        label = spec.get("label")  # type: ignore[assignment]
    try:
        return Label.model_validate(label).model_dump(mode="json")
    except ValidationError:
        return None
