"""Report of a rehearsal: `rehearsal.json`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.rehearse.bisect import Cause
from nightbid.rehearse.findings import RehearsalFinding, RehearsalVerdict
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.storage.workspace import Workspace


class RehearsalReport(BaseModel):
    """Verdict of a rehearsal, its findings, and their causes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: RehearsalPlan
    changes: tuple[str, ...]
    """Changed packages, as `name before → after`."""
    verdict: RehearsalVerdict
    findings: tuple[RehearsalFinding, ...]
    """Findings, grave ones first."""
    causes: tuple[Cause, ...]
    compared: dict[str, Any]
    """Tables of the comparison."""
    cost_usd: Decimal
    """Cost of all processes, at cloud prices."""
    seconds: float
    """Duration of the process that wrote the report; of a resumed rehearsal only the last part."""
    created: dt.datetime

    @property
    def finished(self) -> bool:
        """Whether the causes of all changes were found."""
        return self.verdict == "safe" or (
            self.plan.bisect and all(cause.finished for cause in self.causes)
        )

    @property
    def packages(self) -> list[str]:
        """List the packages that cause a change, sorted by name."""
        return sorted({name for cause in self.causes for name in cause.packages})

    @property
    def sentence(self) -> str:
        """Get the verdict with its first reason, as a sentence."""
        if not self.findings:
            return "safe: nothing differs"
        return f"{self.verdict}: {self.findings[0].text}"


def report_folder(workspace: Workspace, plan: RehearsalPlan) -> UPath:
    """Get the folder of the report of a rehearsal."""
    return workspace.root / "rehearsals" / plan.pipeline / plan.name


def read_report(workspace: Workspace, plan: RehearsalPlan) -> RehearsalReport | None:
    """Read the report of a rehearsal; None if there is none, or one of another plan."""
    path = report_folder(workspace, plan) / "rehearsal.json"
    if not path.exists():
        return None
    report = RehearsalReport.model_validate_json(path.read_text(encoding="utf-8"))
    loose = {"budget_usd", "minutes"}
    return (
        report if report.plan.model_dump(exclude=loose) == plan.model_dump(exclude=loose) else None
    )


def reports_of(workspace: Workspace, pipelines: Iterable[str]) -> list[RehearsalReport]:
    """List the reports of rehearsals, the newest first; unreadable ones are skipped.

    Args:
        workspace: Workspace with the reports.
        pipelines: Names of the pipelines.
    """
    reports = []
    for pipeline in pipelines:
        folder = workspace.root / "rehearsals" / pipeline
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        reports += [report for name in names if (report := find_report(workspace, pipeline, name))]
    return sorted(reports, key=lambda report: report.created, reverse=True)


def find_report(workspace: Workspace, pipeline: str, name: str) -> RehearsalReport | None:
    """Read the report of a rehearsal by its name; None if there is no readable report."""
    path = workspace.root / "rehearsals" / pipeline / name / "rehearsal.json"
    try:
        return RehearsalReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
