"""Promotion: the candidate becomes the champion only when every gate has let it pass."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConcurrentUpdateError, ConfigError, PromotionRefused, StageError
from nightbid.evaluation.verdict import PROMOTED, against, explain
from nightbid.night.attempts import APPROVE
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.key import read_output
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.night.task import Outcome, StageInput, StageTask
from nightbid.storage.workspace import Workspace, is_local

GATES = tuple(stage.name for stage in NIGHT if stage.is_gate)
"""Every gate of a night; one that `promote` does not have among its inputs stops it."""


def promote_by_hand(
    workspace: Workspace, pipeline: str, run_id: str, reason: str, by: str
) -> Champion:
    """Promote the candidate of a finished run at a person's request.

    Every gate must have let it pass. That another champion serves than the one that it was judged
    against does not matter: the person decides.

    Args:
        workspace: Where the run lies.
        pipeline: Name of the pipeline.
        run_id: The run whose bundle is to serve.
        reason: Why; kept in the history.
        by: Person who decides; kept in the history.

    Raises:
        PromotionRefused: A gate has not let it pass, or promotions are paused.
        StageError: Gates and bundle are of different outputs of one stage.
        CorruptDataError: The bundle is damaged.
        ConfigError: There is no such run, or it exported nothing.
    """
    run = RunRecord.load(workspace, pipeline, run_id)
    records = run.current()
    inputs = {
        name: read_output(workspace, records[name].uri)
        for name in (*GATES, "evaluate", "export")
        if name in records and records[name].uri
    }
    for gate in GATES:
        judged = records.get(gate)
        if judged is None and run.newest(gate) is not None:
            raise PromotionRefused(
                f"{gate} has not judged the outputs of now: the run was begun again",
                where=run_id,
                hint="wait until the run has ended, or run its night again",
            )
        if judged is None or judged.state != "done" or judged.verdict not in ("pass", "warn"):
            raise PromotionRefused(
                f"{gate} says {judged.verdict or judged.state if judged else 'nothing'}",
                where=run_id,
                hint="override its checks, then rerun the night",
            )
    if "export" not in inputs:
        raise ConfigError("this run exported no bundle", where=run_id, hint="rerun the night")
    _of_one_night(run_id, inputs)
    bundle = inputs["export"]
    if is_local(bundle.folder):
        bundle.path  # noqa: B018 (reading it verifies every file)
    return ChampionPointer(workspace, pipeline).promote(
        run_id=run.run_id,
        night=run.date,
        bundle_uri=records["export"].uri,
        bundle_digest=bundle.manifest.digest,
        reason=reason,
        by=by,
    )


def run(task: StageTask) -> Outcome:
    """Move the champion pointer to tonight's bundle, or say why not.

    A run of an older night than the champion's (a backfill) never replaces it, and neither does a
    candidate that evaluation does not call better or neutral. Where nothing serves yet, one
    that is not worse is promoted: it has passed every gate.

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
    _of_one_night(task.run_id, task.inputs)
    bundle = task.inputs["export"]
    metrics = task.inputs["evaluate"].manifest.metrics
    verdict, reference = str(metrics["verdict"]), str(metrics["reference"])
    if reference == "baseline" and (column := task.spec.baseline.column):
        reference = f"baseline {column}"
    pointer = ChampionPointer(task.workspace, task.spec.pipeline)
    current = pointer.current()
    # A score in the logs stands for another platform, which serves already.
    is_first = current is None and not task.spec.baseline.column
    if current and current.night > task.night.date:
        decision = "kept"
        summary = f"not promoted: champion #{current.number} is of a later night ({current.night})"
    elif verdict not in PROMOTED and not (verdict != "worse" and is_first):
        decision = "kept"
        stays = f"; champion #{current.number} stays" if current else ""
        why = explain(metrics)
        summary = (
            f"not promoted: {against(verdict, reference)}" + (f" ({why})" if why else "") + stays
        )
    else:
        run_record = RunRecord.load(task.workspace, task.spec.pipeline, task.run_id)
        _of_these_settings(run_record, task.spec)
        pinned = run_record.pinned_champion()
        approval = run_record.stage(APPROVE) if task.spec.approval else None
        try:
            champion = pointer.promote(
                run_id=task.run_id,
                night=task.night.date,
                bundle_uri=task.workspace.uri(bundle.folder),
                bundle_digest=bundle.manifest.digest,
                reason=against(verdict, reference),
                judged_against=pinned.number if pinned else 0,
                judged_bundle=pinned.bundle_digest if pinned else "",
                by=approval.by if approval else "",
                label=task.spec.label.model_dump(mode="json"),
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


def _of_these_settings(run_record: RunRecord, spec: PipelineSpec) -> None:
    """Check that the run is still one of these settings.

    Raises:
        StageError: another process has taken it up with others.
    """
    now = PipelineSpec.model_validate(run_record.head.spec).model_dump(mode="json")
    if now != spec.model_dump(mode="json"):
        raise StageError(
            "another process took this run up with other settings, so nothing is promoted",
            where=run_record.run_id,
            hint=f"see `nightbid runs {spec.pipeline}` for what it made",
        )


def _of_one_night(run_id: str, inputs: Mapping[str, StageInput]) -> None:
    """Check that all which was judged, and all which is promoted, was made from the same outputs.

    Raises:
        StageError: two stages have read different outputs of one stage.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, each in inputs.items():
        if name == "champion":
            continue
        for stage, digest in (*each.manifest.inputs.items(), (name, each.manifest.digest)):
            by, first = seen.setdefault(stage, (name, digest))
            if first != digest:
                raise StageError(
                    f"{by} and {name} are of different outputs of {stage}, so nothing is promoted",
                    where=run_id,
                    hint=f"clear {stage} with Downstream: what has not changed is reused",
                )
