"""What the processes of a rehearsal do beside the night: probes of models, metrics and records."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightbid.rehearse.contract import Answer, StageAnswer
from nightbid.rehearse.findings import Kind
from nightbid.schema import LABEL, USER, WEIGHT
from nightbid.storage.workspace import Workspace

STAGES = ("sample", "featurize", "train", "train_baseline", "evaluate", "export", "load_test")
"""Of a night, with each seed on each side; gates judge, they compute nothing that is served."""
STEP_STAGES: Mapping[Kind, tuple[str, ...]] = {
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
"""Stages that a step of the bisection needs to show a finding of a kind."""
REPLICATES = 20
RUNS = 20
"""Newest runs whose records are copied and opened."""


def probe(
    folder: Path,
    reference: Answer,
    *,
    mine: Answer,
    other: Answer,
    records: Path,
    pipeline: str,
    only: Kind | None = None,
) -> list[dict[str, Any]]:
    """What to ask a side about models, metrics and records.

    Args:
        folder: of the process.
        reference: the present side's night: its predictions and rows are the common ones.
        mine: this side's night.
        other: the other side's.
        records: a copy of the installation's records, if there is one.
        pipeline: name of the pipeline.
        only: what a step of the bisection needs; default: everything.
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
    for name, night in (("score_own", mine), ("score_other", other)):
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
    """Copy a pipeline's run records, champion and ledger; stage outputs are linked, for reading.

    A workspace in a bucket is not copied.
    """
    shutil.rmtree(to, ignore_errors=True)
    if not workspace.is_local:
        return
    root = Path(str(workspace.root))
    to.mkdir(parents=True)
    runs = sorted((root / "runs" / pipeline).glob("*"), key=lambda each: each.stat().st_mtime)
    for run in runs[-RUNS:]:
        shutil.copytree(run, to / "runs" / pipeline / run.name)
    for part in (Path("champion") / pipeline, Path("ledger")):
        if (root / part).exists():
            shutil.copytree(root / part, to / part)
    if (root / "stages").exists():
        (to / "stages").symlink_to(root / "stages")


def _stage(answer: Answer, name: str) -> StageAnswer | None:
    stage = answer.night.stages.get(name) if answer.night else None
    return None if stage is None or stage.error else stage
