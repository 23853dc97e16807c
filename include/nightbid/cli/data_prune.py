"""`nightbid data prune`: lists or removes outputs that are no longer needed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from nightbid.cli.output import AsJson, print_json, terminal
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import WorkspaceError
from nightbid.storage.workspace import Workspace

console = terminal()


def prune(
    days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Keep outputs that runs of the last N days used.")
    ] = 30,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Remove the outputs; without this option, only list them."),
    ] = False,
    trust_clock: Annotated[
        bool,
        typer.Option(
            "--trust-clock",
            help="Trust the machine's clock even if the times of runs contradict it.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List outputs that are no longer needed; --delete removes them.

    Outputs of runs of the last days, of champions and of frozen data sets are kept. If the clock
    seems wrong (a run is in the future, no run is of the last days, or runs are more than a year
    apart), nothing is listed or removed.
    """
    # Imported here so that the command line starts faster.
    from nightbid.retention import Removal, check_clock, needed_now, unneeded
    from nightbid.retention import prune as remove_outputs

    workspace = Workspace(Settings().workspace)
    if not workspace.root.exists():
        raise WorkspaceError(
            "there is no workspace", where=str(workspace.root), hint="check NIGHTBID_WORKSPACE"
        )
    if not trust_clock:
        check_clock(workspace, days)
    pruning = unneeded(workspace, days)

    def needed() -> frozenset[str]:
        return needed_now(workspace, days)

    removal = remove_outputs(pruning, needed) if delete else Removal()
    if as_json:
        print_json({**asdict(pruning), "removed": delete, **asdict(removal)})
        removal.check(workspace)
        return
    table = Table("what", "outputs", "MB", "oldest", box=None, padding=(0, 2, 0, 0))
    for kind in sorted({output.what for output in pruning.unneeded}):
        outputs = [output for output in pruning.unneeded if output.what == kind]
        table.add_row(
            kind,
            f"{len(outputs):,}",
            f"{sum(output.size for output in outputs) / 1e6:,.1f}",
            f"{min(output.created for output in outputs):%Y-%m-%d}",
        )
    if pruning.unneeded:
        console.print(table)
    removed = len(pruning.unneeded) - removal.still_needed - len(removal.failures)
    stay = pruning.kept + removal.still_needed
    # What is left of the outputs also takes space, by an amount that is not known.
    size = "" if removed < len(pruning.unneeded) else f", {pruning.freed / 1e6:,.1f} MB"
    hint = "" if delete or not pruning.unneeded else "; remove them with --delete"
    console.print(
        f"{counted(removed, 'output')}{size} {'removed' if delete else 'can be removed'},"
        f" {counted(stay, 'output stays', 'outputs stay')}{hint}",
        soft_wrap=True,
        highlight=False,
    )
    removal.check(workspace)
