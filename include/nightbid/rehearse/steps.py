"""Steps of a rehearsal in addition to the night: probes of models, metrics and records."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightbid.rehearse.contract import ProcessAnswer, StageAnswer
from nightbid.rehearse.findings import FindingKind
from nightbid.schema import LABEL, USER, WEIGHT
from nightbid.storage.workspace import Workspace

STAGES = ("sample", "featurize", "train", "train_baseline", "evaluate", "export", "load_test")
"""Stages of a night that run with each seed on each side; gates compute nothing that is served."""
STEP_STAGES: Mapping[FindingKind, tuple[str, ...]] = {
    "failure": STAGES,
    "settings": (),
    "features": ("sample", "featurize"),
    "metrics": (),
    "training": STAGES[:5],
    "predictions": STAGES[:5],
    "champion": ("sample", "featurize", "train", "export"),
    "serving": ("sample", "featurize", "train", "export"),
    "records": (),
}
"""Kind of finding → stages that a step of the bisection must run to show it."""
REPLICATES = 20
RUNS = 20
"""Number of newest runs whose records are copied and opened."""


def probe(
    folder: Path,
    reference: ProcessAnswer,
    *,
    own: ProcessAnswer,
    other: ProcessAnswer,
    records: Path,
    pipeline: str,
    only: FindingKind | None = None,
) -> list[dict[str, Any]]:
    """Make the steps that probe models, metrics and records on a side.

    Args:
        folder: Folder of the process.
        reference: Night of the present side, whose predictions and rows both sides use.
        own: Night of this side.
        other: Night of the other side.
        records: Folder for a copy of the installation's records, which may not exist.
        pipeline: Name of the pipeline.
        only: Kind of finding that a step of the bisection needs; None: all probes.
    """
    steps: list[dict[str, Any]] = []
    evaluated, sampled = _stage(reference, "evaluate"), _stage(reference, "sample")
    if evaluated is not None and only in (None, "metrics"):
        steps.append(
            {"name": "metrics", "step": "metrics", "replicates": REPLICATES,
             "scores": f"{evaluated.folder}/scores/part-00000.parquet",
             "columns": {"user": USER, "label": LABEL, "weight": WEIGHT},
             "models": ["candidate", "baseline"]}
        )  # fmt: skip
    for name, night in (("score_own", own), ("score_other", other)):
        export = _stage(night, "export")
        if export is None or sampled is None or only not in (None, "champion"):
            continue
        steps.append(
            {"name": name, "step": "score", "bundle": export.folder,
             "rows": f"{sampled.folder}/split=evaluate", "to": str(folder / f"{name}.parquet")}
        )  # fmt: skip
    if records.exists() and only in (None, "records"):
        steps.append({"name": "records", "step": "records", "workspace": str(records),
                      "pipeline": pipeline})  # fmt: skip
    return steps


def copy_records(workspace: Workspace, pipeline: str, to: Path) -> None:
    """Copy a pipeline's run records, champion and ledger, and link the outputs of stages.

    A workspace in a bucket is not copied.
    """
    shutil.rmtree(to, ignore_errors=True)
    if not workspace.is_local:
        return
    root = Path(str(workspace.root))
    to.mkdir(parents=True)
    runs = sorted((root / "runs" / pipeline).glob("*"), key=lambda run: run.stat().st_mtime)
    for run in runs[-RUNS:]:
        shutil.copytree(run, to / "runs" / pipeline / run.name)
    for part in (Path("champion") / pipeline, Path("ledger")):
        if (root / part).exists():
            shutil.copytree(root / part, to / part)
    if (root / "stages").exists():
        (to / "stages").symlink_to(root / "stages")


def _stage(answer: ProcessAnswer, name: str) -> StageAnswer | None:
    stage = answer.night.stages.get(name) if answer.night else None
    return None if stage is None or stage.error else stage
