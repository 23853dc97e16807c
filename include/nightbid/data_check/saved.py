"""Results of folder checks requested in Airflow, kept in the workspace for their pages."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.data_check.check import FolderReport
from nightbid.data_check.personal import masked, may_be_quoted
from nightbid.storage.files import read_all, write_atomically
from nightbid.storage.workspace import Workspace


class SavedCheck(BaseModel):
    """Stored result of a folder check."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: str
    created: dt.datetime
    by: str = ""
    """User who requested the check."""
    report: dict[str, Any]
    """Result of `FolderReport.to_json`, without values that may identify a person."""
    judged_by_values: bool = False
    """Whether columns' values decided which examples are shown; in older checks names did."""

    @property
    def missing(self) -> dict[str, str]:
        """Roles without a column → what they mean."""
        missing: dict[str, str] = self.report["missing"]
        return missing


def save_check(
    workspace: Workspace, name: str, folder: str, report: FolderReport, by: str
) -> SavedCheck:
    """Store a check; an earlier one of the same name is replaced.

    Examples are kept only for the time and for columns with a few common values, see
    `nightbid.data_check.personal`, since the page has readers who may not read the logs.

    Args:
        workspace: Workspace to store the check in.
        name: Name of the check, safe as a file name.
        folder: Folder that was checked.
        report: Result of the check.
        by: User who requested the check.

    Returns:
        The stored check.
    """
    check = SavedCheck(
        name=name, folder=folder, created=dt.datetime.now(dt.UTC), by=by, report=_shared(report),
        judged_by_values=True,
    )  # fmt: skip
    write_atomically(_folder(workspace) / f"{name}.json", check.model_dump_json())
    return check


def _shared(report: FolderReport) -> dict[str, Any]:
    """Result of a check without values that may identify a person."""
    content, roles = report.to_json(), report.found.roles
    hidden = {roles[role] for role in ("user", "key") if role in roles}
    for column, shown in zip(report.columns, content["columns"], strict=True):
        is_time = column.name == roles.get("time")
        if column.name in hidden or not (is_time or may_be_quoted(column)):
            shown["examples"] = None
    for text in report.found.anonymous.may_be_users:
        values = content["anonymous"]["values"]
        values["???"] = values.pop(text)
        for quoted in (json.dumps(text), repr(text)):
            content["yaml"] = content["yaml"].replace(quoted, quoted[0] + "???" + quoted[0])
    if unread := report.found.unread_time:
        message = content["missing"]["time"]
        content["missing"]["time"] = message.replace(repr(unread), repr(masked(unread)))
        # White space is folded in comments of the draft.
        content["yaml"] = content["yaml"].replace(
            *(" ".join(text.split()) for text in (message, content["missing"]["time"]))
        )
    return content


def saved_checks(workspace: Workspace) -> list[SavedCheck]:
    """List the stored checks, newest first; unreadable ones are left out.

    Checks of earlier versions are shown without examples.
    """
    checks = []
    for text in read_all(_folder(workspace), ".json").values():
        try:
            check = SavedCheck.model_validate_json(text)
        except ValueError:
            continue
        if not check.judged_by_values:
            for column in check.report.get("columns", ()):
                column["examples"] = None
        checks.append(check)
    return sorted(checks, key=lambda check: check.created, reverse=True)


def _folder(workspace: Workspace) -> UPath:
    return workspace.root / "data_checks"
