"""The champion that a run's candidate is compared with: pinned once, and only of the same label."""

from __future__ import annotations

from contextlib import suppress

from pydantic import ValidationError

from nightbid.config.pipeline import Label, PipelineSpec
from nightbid.errors import NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.head import GONE
from nightbid.night.record import RunRecord
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.storage.files import write_once


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

    Their `label` blocks must be equal: models of conversions and of clicks are not comparable.

    Args:
        run: Run of the candidate.
        champion: Champion of the same pipeline.
        spec: Settings of the candidate.
    """
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
