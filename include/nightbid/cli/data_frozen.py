"""`nightbid data freeze` and `nightbid data frozen`: rows of a run, kept under a name."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from nightbid.cli import complete
from nightbid.cli.output import AsJson, print_json, terminal
from nightbid.cli.root import PipelineName
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.night.record import RunRecord
from nightbid.sampling.frozen import freeze as freeze_rows
from nightbid.sampling.frozen import frozen as frozen_sets
from nightbid.sampling.frozen import verified
from nightbid.storage.workspace import Workspace

console = terminal()


def freeze(
    pipeline: PipelineName,
    run_id: Annotated[
        str, typer.Argument(help="Run whose rows to freeze.", autocompletion=complete.runs)
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the data set; cannot be reused.")],
    reason: Annotated[str, typer.Option(help="Purpose of the data set.")] = "",
) -> None:
    """Freeze the sampled rows of a run under a name, so that other runs can use the same rows."""
    settings = Settings()
    workspace = Workspace(settings.workspace)
    pipeline_name = find_pipeline(pipeline, settings.pipelines).pipeline
    data_set = freeze_rows(
        workspace, RunRecord.load(workspace, pipeline_name, run_id), name, reason=reason
    )
    console.print(
        f"{data_set.name}: {counted(data_set.rows, 'row')} of {data_set.run_id},"
        f" {data_set.bytes / 1e6:,.1f} MB, digest {data_set.digest[:12]}",
        soft_wrap=True,
        highlight=False,
    )


def frozen(
    check: Annotated[bool, typer.Option("--check", help="Verify every byte.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the frozen data sets; with --check, verify that they are unchanged."""
    workspace = Workspace(Settings().workspace)
    data_sets = frozen_sets(workspace)
    if as_json:
        for data_set in data_sets if check else ():
            verified(workspace, data_set.name)
        print_json(data_sets)
        return
    if not data_sets:
        console.print("no data set is frozen yet: `nightbid data freeze PIPELINE RUN --name …`")
        return
    table = Table(
        # Users type names, so names are never folded.
        Column("name", min_width=max(len(data_set.name) for data_set in data_sets)),
        *["pipeline", "night", "rows", "digest", "frozen"],
        "purpose",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="underline",
    )
    for data_set in data_sets:
        if check:
            verified(workspace, data_set.name)
        table.add_row(
            data_set.name,
            data_set.pipeline,
            str(data_set.night),
            f"{data_set.rows:,}",
            data_set.digest[:12],
            f"{data_set.created:%Y-%m-%d}",
            data_set.reason,
        )
    console.print(table)
    if check:
        console.print("all bytes are unchanged")
