"""Checks of folders that were asked for in Airflow, kept in the workspace for their pages."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.data_check.check import FolderReport
from nightbid.storage.workspace import Workspace, read_all, write_atomically

PERSONAL = ("user", "key")
"""Roles whose columns hold ids of people or impressions: their examples are not kept."""


class SavedCheck(BaseModel):
    """What a folder of logs seems to be, as it was found once."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: str
    created: dt.datetime
    by: str = ""
    """Who asked."""
    report: dict[str, Any]
    """As `FolderReport.to_json`."""

    @property
    def missing(self) -> dict[str, str]:
        """Roles without a column → what they are."""
        found: dict[str, str] = self.report["missing"]
        return found


def save_check(workspace: Workspace, name: str, folder: str, report: FolderReport, by: str) -> None:
    """Keep a check; one of the same name is replaced.

    Args:
        workspace: Where it is kept.
        name: A file name.
        folder: What was looked at.
        report: What was found.
        by: Who asked.
    """
    found = report.to_json()
    personal = {found["roles"][role]["column"] for role in PERSONAL if role in found["roles"]}
    for column in found["columns"]:
        if column["name"] in personal:
            column["examples"] = []
    check = SavedCheck(
        name=name, folder=folder, created=dt.datetime.now(dt.UTC), by=by, report=found
    )
    write_atomically(_folder(workspace) / f"{name}.json", check.model_dump_json())


def saved_checks(workspace: Workspace) -> list[SavedCheck]:
    """List the checks, the newest first; unreadable ones are left out."""
    found = []
    for text in read_all(_folder(workspace), ".json").values():
        try:
            found.append(SavedCheck.model_validate_json(text))
        except ValueError:
            continue
    return sorted(found, key=lambda each: each.created, reverse=True)


def _folder(workspace: Workspace) -> UPath:
    return workspace.root / "data_checks"
