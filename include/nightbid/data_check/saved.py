"""Checks of folders that were asked for in Airflow, kept in the workspace for their pages."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.data_check.check import FolderReport
from nightbid.data_check.personal import masked, may_be_quoted
from nightbid.storage.workspace import Workspace, read_all, write_atomically


class SavedCheck(BaseModel):
    """What a folder of logs seems to be, as it was found once."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: str
    created: dt.datetime
    by: str = ""
    """Who asked."""
    report: dict[str, Any]
    """As `FolderReport.to_json`, without values that may identify somebody."""
    judged_by_values: bool = False
    """Whether values decided what is shown of a column; before, its name did."""

    @property
    def missing(self) -> dict[str, str]:
        """Roles without a column → what they are."""
        found: dict[str, str] = self.report["missing"]
        return found


def save_check(
    workspace: Workspace, name: str, folder: str, report: FolderReport, by: str
) -> SavedCheck:
    """Keep a check; one of the same name is replaced.

    Examples are kept of the time and of columns with a few common values alone, see
    `nightbid.data_check.personal`: the page has readers who may not read the logs.

    Args:
        workspace: Where it is kept.
        name: A file name.
        folder: What was looked at.
        report: What was found.
        by: Who asked.

    Returns:
        What is kept.
    """
    check = SavedCheck(
        name=name, folder=folder, created=dt.datetime.now(dt.UTC), by=by, report=_shared(report),
        judged_by_values=True,
    )  # fmt: skip
    write_atomically(_folder(workspace) / f"{name}.json", check.model_dump_json())
    return check


def _shared(report: FolderReport) -> dict[str, Any]:
    """What a check found, as others may read it."""
    found, roles = report.to_json(), report.found.roles
    hidden = {roles[role] for role in ("user", "key") if role in roles}
    for column, shown in zip(report.columns, found["columns"], strict=True):
        is_time = column.name == roles.get("time")
        if column.name in hidden or not (is_time or may_be_quoted(column)):
            shown["examples"] = None
    if unread := report.found.unread_time:
        said = found["missing"]["time"]
        found["missing"]["time"] = said.replace(repr(unread), repr(masked(unread)))
        # In a comment of the draft white space is folded.
        found["yaml"] = found["yaml"].replace(
            *(" ".join(each.split()) for each in (said, found["missing"]["time"]))
        )
    return found


def saved_checks(workspace: Workspace) -> list[SavedCheck]:
    """List the checks, the newest first; unreadable ones are left out.

    Of those that an earlier version kept no examples are shown.
    """
    found = []
    for text in read_all(_folder(workspace), ".json").values():
        try:
            check = SavedCheck.model_validate_json(text)
        except ValueError:
            continue
        if not check.judged_by_values:
            for column in check.report.get("columns", ()):
                column["examples"] = None
        found.append(check)
    return sorted(found, key=lambda each: each.created, reverse=True)


def _folder(workspace: Workspace) -> UPath:
    return workspace.root / "data_checks"
