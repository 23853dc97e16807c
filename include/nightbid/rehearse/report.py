"""What a rehearsal came to: `rehearsal.json`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.rehearse.bisect import Cause
from nightbid.rehearse.findings import Finding, Verdict
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.storage.workspace import Workspace


class Report(BaseModel):
    """The verdict, what it rests on, and where changes come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: RehearsalPlan
    changes: tuple[str, ...]
    """Packages, `name before → after`."""
    verdict: Verdict
    findings: tuple[Finding, ...]
    """Grave ones first."""
    causes: tuple[Cause, ...]
    compared: dict[str, Any]
    """The tables of the comparison."""
    cost_usd: Decimal
    """Of all processes, at cloud prices."""
    seconds: float
    """Of the process that wrote it: a rehearsal that went on counts its last part."""
    created: dt.datetime

    @property
    def finished(self) -> bool:
        """Whether the causes of all changes were found as well."""
        return self.verdict == "safe" or (
            self.plan.bisect and all(each.finished for each in self.causes)
        )

    @property
    def packages(self) -> list[str]:
        """Packages that cause a change, by name."""
        return sorted({name for cause in self.causes for name in cause.packages})

    @property
    def sentence(self) -> str:
        """The verdict with its first reason."""
        if not self.findings:
            return "safe: nothing differs"
        return f"{self.verdict}: {self.findings[0].text}"


def report_folder(workspace: Workspace, plan: RehearsalPlan) -> UPath:
    """Where the report of a rehearsal lies."""
    return workspace.root / "rehearsals" / plan.pipeline / plan.name


def read_report(workspace: Workspace, plan: RehearsalPlan) -> Report | None:
    """The report of a rehearsal; None if it has none yet, or one of another plan."""
    path = report_folder(workspace, plan) / "rehearsal.json"
    if not path.exists():
        return None
    found = Report.model_validate_json(path.read_text(encoding="utf-8"))
    loose = {"budget_usd", "minutes"}
    return found if found.plan.model_dump(exclude=loose) == plan.model_dump(exclude=loose) else None


def reports_of(workspace: Workspace, pipelines: Iterable[str]) -> list[Report]:
    """List the rehearsals that have a report, the newest first; unreadable ones are left out.

    Args:
        workspace: where they lie.
        pipelines: whose.
    """
    found = []
    for pipeline in pipelines:
        folder = workspace.root / "rehearsals" / pipeline
        names = sorted(each.name for each in folder.iterdir()) if folder.exists() else []
        found += [each for name in names if (each := find_report(workspace, pipeline, name))]
    return sorted(found, key=lambda each: each.created, reverse=True)


def find_report(workspace: Workspace, pipeline: str, name: str) -> Report | None:
    """Read the report of a rehearsal by its name; None if it has none that can be read."""
    path = workspace.root / "rehearsals" / pipeline / name / "rehearsal.json"
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
