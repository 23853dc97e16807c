"""Shell completion of pipelines, runs, stages and checks. It never raises an error."""

from __future__ import annotations

from contextlib import suppress

import typer

from nightbid.config.load import pipeline_names
from nightbid.config.settings import Settings
from nightbid.errors import NightbidError
from nightbid.night.stages import NIGHT


def pipelines(incomplete: str) -> list[str]:
    """Complete the name of a pipeline."""
    with suppress(OSError, NightbidError, ValueError):
        names = pipeline_names(Settings().pipelines)
        return [name for name in names if name.startswith(incomplete)]
    return []


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a run of the pipeline on the command line, the newest first."""
    from nightbid.storage.workspace import Workspace

    pipeline = str(ctx.params.get("pipeline") or "")
    with suppress(OSError, NightbidError, ValueError):
        folder = Workspace(Settings().workspace).root / "runs" / pipeline
        if not pipeline or not folder.exists():
            return []
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        return sorted((name for name in names if name.startswith(incomplete)), reverse=True)
    return []


def stages(incomplete: str) -> list[str]:
    """Complete a stage of a night, in the order of the night."""
    return [stage.name for stage in NIGHT if stage.name.startswith(incomplete)]


def checks(incomplete: str) -> list[str]:
    """Complete a check, as `gate/statistic`."""
    from nightbid.config.gates import GATES
    from nightbid.gates.catalog import checks_of

    names = [f"{gate}/{check.statistic}" for gate in GATES for check in checks_of(gate)]
    return [name for name in names if name.startswith(incomplete)]
