"""The night that `chaos.py` disturbs: the real graph of stages with trivial work.

Records, commits, verification, reuse, ledger and promotion are Nightbid's own. Only the computation
of a stage is replaced, so that a night takes a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from datetime import date
from pathlib import Path

from chaos_stages import trivial
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.ledger import Ledger
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.night.task import Outcome, StageTask
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

NIGHT_OF = date(2026, 1, 8)
RUN = "chaos"
SECONDS = "NIGHTBID_CHAOS_SECONDS"
"""Variable with the minimum seconds of a stage, for nights that are disturbed mid-run."""


def spec(epochs: int | None = None) -> PipelineSpec:
    """Return a pipeline that reads the simulator."""
    return PipelineSpec.model_validate(
        {"pipeline": "p", "features": {"a": {"column": "a"}}, "train": {"epochs": epochs}}
    )


def make(task: StageTask) -> Outcome:
    """Write two files that depend on all bytes of the inputs, and let every gate pass.

    The champion has no influence, so every night ends with the same bytes.
    """
    time.sleep(float(os.environ.get(SECONDS, "0")))
    stage = task.output.parent.name
    setting = task.spec.train.epochs if stage == "train" else None
    content = hashlib.sha256(f"{stage} {task.night.date} {setting}".encode())
    for name in sorted(task.inputs.keys() - {"champion"}):
        for path in sorted(task.inputs[name].path.rglob("*.txt")):
            content.update(path.read_bytes())
    for name in ("first.txt", "rows/second.txt"):
        path = task.output / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name} {content.hexdigest()}\n" * 50)
    metrics = {"verdict": "better", "reference": "baseline", "epochs": task.spec.train.epochs}
    return Outcome(metrics=metrics, summary="made")


def gate(task: StageTask) -> Outcome:
    """Do the work of `make` and return a passing verdict."""
    return dataclasses.replace(make(task), verdict="pass")


def stages() -> list[Stage]:
    """Return the stages of a night; all but `promote` do trivial work."""
    return list(trivial())


def night(
    workspace: Path, of: date = NIGHT_OF, run_id: str = RUN, epochs: int | None = None
) -> None:
    """Run or resume the night, and compact its ledger."""
    pipeline = spec(epochs)
    run = RunRecord.start(Workspace(str(workspace)), pipeline, of, run_id=run_id)
    for stage in stages():
        run_stage(stage, pipeline, run, cache_folder=workspace.parent / "cache")
    Ledger(run.workspace).compact()
