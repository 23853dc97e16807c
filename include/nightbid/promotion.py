"""Promotion: the candidate becomes the champion only if every gate has passed it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import (
    ConcurrentUpdateError,
    ConfigError,
    CorruptDataError,
    NightbidError,
    PromotionRefused,
    StageError,
)
from nightbid.evaluation.verdict import PROMOTED, against, explain
from nightbid.night.attempts import APPROVE
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.key import read_output
from nightbid.night.record import RunRecord
from nightbid.night.reference import learned_days, pinned_champion
from nightbid.night.stages import NIGHT
from nightbid.night.task import Outcome, StageInput, StageTask
from nightbid.storage.files import is_local
from nightbid.storage.workspace import Workspace

GATES = tuple(stage.name for stage in NIGHT if stage.is_gate)
"""Names of all gates of a night; `promote` refuses if any of them is not among its inputs."""


def promote_by_hand(
    workspace: Workspace, pipeline: str, run_id: str, reason: str, by: str
) -> Champion:
    """Promote the candidate of a finished run manually.

    Every gate must have passed it. The current champion may be another one than the candidate was
    judged against, since the user decides.

    Args:
        workspace: Workspace with the run.
        pipeline: Name of the pipeline.
        run_id: Id of the run whose bundle to promote.
        reason: Reason for the history.
        by: Name of the deciding user, for the history.

    Raises:
        PromotionRefused: A gate has not passed the candidate, or promotions are paused.
        StageError: Gates and bundle are based on different outputs of a stage.
        CorruptDataError: The bundle is damaged.
        ConfigError: There is no such run, or it has no bundle.
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
                f"{gate} has not checked the current outputs: the run was restarted",
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


def roll_back(
    workspace: Workspace, pipeline: str, reason: str, to: int | None = None, by: str = ""
) -> Champion:
    """Let an earlier champion serve again, if its bundle is intact.

    Args:
        workspace: Workspace with the history.
        pipeline: Name of the pipeline.
        reason: Reason for the history.
        to: Number of the entry; None: the promotion before the current one.
        by: Name of the deciding user, for the history.

    Raises:
        ConfigError: There is no such entry, no earlier promotion, or no reason.
        WorkspaceError: The bundle of that entry was deleted.
        CorruptDataError: That bundle is damaged.
    """
    _require_reason("a rollback", reason)
    pointer = ChampionPointer(workspace, pipeline)
    if to is None:
        target = pointer.before()
    else:
        target = next((entry for entry in pointer.history() if entry.number == to), None)
    if target is not None and target.serves:
        _check_bundle(workspace, target)
        to = target.number
    return pointer.rollback(reason, to, by)


def retire(workspace: Workspace, pipeline: str, number: int, reason: str, by: str = "") -> Champion:
    """Take a champion out of service permanently; see `ChampionPointer.retire`.

    Raises:
        ConfigError: There is no such entry, its bundle is already retired, or there is no reason.
        WorkspaceError: The bundle that would serve instead was deleted.
        CorruptDataError: That bundle is damaged.
    """
    _require_reason("a retirement", reason)
    pointer = ChampionPointer(workspace, pipeline)
    serving, next_one = pointer.current(), pointer.before()
    retired = {entry.bundle_digest for entry in pointer.history() if entry.number == number}
    if serving and next_one and serving.bundle_digest in retired:
        _check_bundle(workspace, next_one)
    return pointer.retire(number, reason, by)


def _require_reason(action: str, reason: str) -> None:
    if not reason.strip():
        raise ConfigError(f"{action} needs a reason", where="champion", hint="add --reason '…'")


def _check_bundle(workspace: Workspace, champion: Champion) -> None:
    """Check that a scorer can load the bundle of a champion; otherwise the last one would stay."""
    try:
        bundle = read_output(workspace, champion.bundle_uri)
        if bundle.manifest.digest != champion.bundle_digest:
            raise CorruptDataError(f"it has digest {bundle.manifest.digest[:12]}")
        if is_local(bundle.folder):
            bundle.path  # noqa: B018 (reading it verifies every file)
    except NightbidError as error:
        raise type(error)(
            f"the bundle of #{champion.number} ({champion.run_id}) cannot serve, so nothing was"
            f" changed: {error.what}",
            where=champion.bundle_uri,
            hint=f"`nightbid rollback {champion.pipeline} --to NUMBER --reason …` to another one,"
            f" or run the night of {champion.night} again",
        ) from error


def run(task: StageTask) -> Outcome:
    """Make tonight's bundle the champion, or report why not.

    A run of an older night than the champion's (a backfill) never replaces it, and neither does a
    candidate whose verdict is neither better nor neutral. If nothing serves yet, a candidate that
    is not worse is promoted, since it has passed every gate.

    Raises:
        StageError: A gate is missing among the inputs or has not passed (fail closed).
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
    # With a score in the logs as the baseline, another platform serves already.
    is_first = current is None and not task.spec.baseline.column
    if current and current.night > task.night.date:
        decision = "kept"
        summary = (
            f"not promoted: champion #{current.number} is from a later night ({current.night})"
        )
    elif current and (days := learned_days(task.workspace, current, task.night)):
        decision = "kept"
        summary = (
            f"not promoted: champion #{current.number} has learned {' and '.join(map(str, days))},"
            " so it was not compared with the candidate; it stays"
        )
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
        pinned = pinned_champion(run_record)
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
    """Check that the run still has the same settings.

    Raises:
        StageError: Another process has resumed the run with other settings.
    """
    now = PipelineSpec.model_validate(run_record.head.spec).model_dump(mode="json")
    if now != spec.model_dump(mode="json"):
        raise StageError(
            "another process took over this run with other settings, so nothing is promoted",
            where=run_record.run_id,
            hint=f"see `nightbid runs {spec.pipeline}` for its results",
        )


def _of_one_night(run_id: str, inputs: Mapping[str, StageInput]) -> None:
    """Check that the judged and the promoted outputs are based on the same outputs.

    Raises:
        StageError: Two stages have read different outputs of a stage.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, output in inputs.items():
        if name == "champion":
            continue
        for stage, digest in (*output.manifest.inputs.items(), (name, output.manifest.digest)):
            by, first = seen.setdefault(stage, (name, digest))
            if first != digest:
                raise StageError(
                    f"{by} and {name} come from different outputs of {stage}, so nothing is"
                    " promoted",
                    where=run_id,
                    hint=f"clear {stage} with Downstream: unchanged stages are reused",
                )
