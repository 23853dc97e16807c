"""`nightbid data forget`: lists the data about given users, and removes it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from nightbid.cli.output import AsJson, print_json, terminal
from nightbid.config.load import find_pipeline, pipeline_names
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.storage.workspace import Workspace

console = terminal()


def forget(
    users: Annotated[
        list[str], typer.Argument(help="User ids, as in the user column of the logs.")
    ],
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the data; without this option, only list it.")
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why; kept in the audit record, without the ids.")
    ] = "",
    by: Annotated[str, typer.Option(help="Who removes it; default: your user name.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the workspace's data about given users; --delete removes it.

    Also lists the champions that were trained on these users. Remove their rows from the logs
    first; otherwise the next night reads them from the logs again.
    """
    from nightbid.cli.champion import person
    from nightbid.forget import find_users
    from nightbid.forget import forget as remove_users

    settings = Settings()
    workspace = Workspace(settings.workspace)
    traces = find_users(workspace, users, _keyed(users, settings))
    if as_json:
        if delete:
            remove_users(workspace, traces, by=person(by), reason=reason)
        print_json({"outputs": traces.outputs, "rows": traces.rows, "learned": traces.learned,
                    "removed": delete})  # fmt: skip
        return
    table = Table("what", "outputs", "rows of them", box=None, padding=(0, 2, 0, 0))
    for kind in sorted({output.what for output in traces.outputs}):
        count = sum(output.what == kind for output in traces.outputs)
        table.add_row(kind, f"{count:,}", f"{traces.rows[kind]:,}" if kind in traces.rows else "")
    if traces.outputs:
        console.print(table)
    for entry in traces.learned:
        console.print(
            f"champion #{entry.number} of {entry.pipeline} was trained on them and stays: "
            f"promote another night, then `nightbid champion retire {entry.pipeline} {entry.number}"
            " --reason …`",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    if delete:
        remove_users(workspace, traces, by=person(by), reason=reason)
    note = "removed; the next night samples the logs again and trains on the result"
    hint = note if delete else "would be removed; to remove it, add --delete"
    console.print(
        f"{counted(len(traces.outputs), 'output')} {hint}"
        if traces.outputs
        else "no data about them is stored",
        soft_wrap=True,
        highlight=False,
    )


def _keyed(users: list[str], settings: Settings) -> list[str]:
    """Get the hashed ids that pipelines with `source.user_key` store.

    Raises:
        ConfigError: A pipeline's YAML is broken or its secret is missing, so rows would be missed.
    """
    from nightbid.data.user_keys import UserKeyHasher

    specs = (find_pipeline(name, settings.pipelines) for name in pipeline_names(settings.pipelines))
    every = [keys for spec in specs if (keys := UserKeyHasher.of(spec)) is not None]
    return [key for keys in every for key in keys.many(users)]
