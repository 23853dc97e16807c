"""Tasks of stages that a test runs on their own, without a run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.night.task import StageInput, StageTask
from nightbid.storage.workspace import Workspace


def task_of(
    spec: PipelineSpec,
    newest: date,
    output: Path,
    *,
    workspace: Path,
    cache: Path,
    inputs: Mapping[str, StageInput] | None = None,
) -> StageTask:
    """Return the task of a stage on a night without a history.

    Args:
        spec: Settings of the night.
        newest: Newest day of the night.
        output: Empty folder for the output.
        workspace: Folder of the workspace.
        cache: Folder for derived files.
        inputs: Inputs of the stage by the names of their stages.
    """
    return StageTask(
        spec=spec,
        night=Night.of(spec, newest),
        run_id="r",
        inputs=inputs or {},
        history=(),
        output=output,
        workspace=Workspace(str(workspace)),
        cache=cache,
    )
