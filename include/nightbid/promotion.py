"""Promotion: the candidate becomes the champion only when every gate has let it pass."""

from __future__ import annotations

import json

from nightbid.errors import ConcurrentUpdateError, PromotionRefused, StageError
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import APPROVE, RunRecord
from nightbid.night.stages import NIGHT
from nightbid.night.task import Outcome, StageTask

GATES = tuple(stage.name for stage in NIGHT if stage.is_gate)
"""Every gate of a night; one that `promote` does not have among its inputs stops it."""


def run(task: StageTask) -> Outcome:
    """Move the champion pointer to tonight's bundle, or say why not.

    A run of an older night than the champion's (a backfill) never replaces it, and neither does a
    candidate that evaluation calls worse.

    Raises:
        StageError: a gate is not among the inputs' passes (fail closed).
    """
    for gate in GATES:
        judged = task.inputs[gate].manifest.verdict if gate in task.inputs else "nothing"
        if judged not in ("pass", "warn"):
            raise StageError(
                f"{gate} says {judged!r}, so nothing is promoted",
                where=task.run_id,
                hint="open the gate report, fix the cause, then rerun the night",
            )
    for name, judged_on in task.inputs.items():
        if name != "champion":
            judged_on.path  # noqa: B018 (reading it verifies every file)
    _of_one_night(task)
    bundle = task.inputs["export"]
    verdict = str(task.inputs["evaluate"].manifest.metrics["verdict"])
    reference = str(task.inputs["evaluate"].manifest.metrics["reference"])
    if reference == "baseline" and (column := task.spec.baseline.column):
        reference = f"baseline {column}"
    pointer = ChampionPointer(task.workspace, task.spec.pipeline)
    current = pointer.current()
    if current and current.night > task.night.date:
        decision = "kept"
        summary = f"not promoted: champion #{current.number} is of a later night ({current.night})"
    elif verdict == "worse":
        decision = "kept"
        summary = f"not promoted: worse than the {reference}"
    else:
        run_record = RunRecord.load(task.workspace, task.spec.pipeline, task.run_id)
        pinned = run_record.pinned_champion()
        approval = run_record.stage(APPROVE) if task.spec.approval else None
        try:
            champion = pointer.promote(
                run_id=task.run_id,
                night=task.night.date,
                bundle_uri=task.workspace.uri(bundle.folder),
                bundle_digest=bundle.manifest.digest,
                reason=f"{verdict} than the {reference}"
                if verdict != "neutral"
                else f"neutral against the {reference}",
                judged_against=pinned.number if pinned else 0,
                by=approval.by if approval else "",
            )
        except (PromotionRefused, ConcurrentUpdateError) as error:
            decision = "kept"
            summary = f"not promoted: {error.what} → {error.hint}"
        else:
            decision = "promoted"
            summary = f"promoted as champion #{champion.number}: {champion.reason}"
    text = json.dumps({"decision": decision, "bundle": bundle.manifest.digest}, indent=1)
    (task.output / "promotion.json").write_text(text)
    return Outcome(metrics={"decision": decision, "verdict": verdict}, summary=summary)


def _of_one_night(task: StageTask) -> None:
    """Check that all which was judged, and all which is promoted, was made from the same outputs.

    Raises:
        StageError: two stages have read different outputs of one stage.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, each in task.inputs.items():
        if name == "champion":
            continue
        for stage, digest in (*each.manifest.inputs.items(), (name, each.manifest.digest)):
            by, first = seen.setdefault(stage, (name, digest))
            if first != digest:
                raise StageError(
                    f"{by} and {name} are of different outputs of {stage}, so nothing is promoted",
                    where=task.run_id,
                    hint=f"clear {stage} with Downstream: what has not changed is reused",
                )
