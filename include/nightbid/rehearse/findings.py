"""Findings of a rehearsal, their severity, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

FindingKind = Literal[
    "failure", "settings", "features", "metrics", "training", "predictions", "champion", "serving",
    "records", "database", "speed", "warnings",
]  # fmt: skip
RehearsalVerdict = Literal["safe", "safe with noted changes", "not safe"]

TITLES: dict[FindingKind, str] = {
    "failure": "Stages that fail",
    "settings": "Settings",
    "features": "Features",
    "metrics": "Metrics on identical predictions",
    "training": "Training",
    "predictions": "Predictions of retrained models",
    "champion": "Models across versions",
    "serving": "Serving",
    "records": "Old records",
    "database": "Airflow's metadata",
    "speed": "Speed and memory",
    "warnings": "Deprecation warnings",
}
BISECTED: tuple[FindingKind, ...] = (
    "failure", "settings", "features", "metrics", "training", "champion", "serving", "records",
    "predictions",
)  # fmt: skip
"""Kinds of findings whose cause is searched; warnings name their library themselves."""


class RehearsalFinding(BaseModel):
    """A difference between the two sides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FindingKind
    subject: str
    """Stage, feature or metric that differs."""
    grave: bool
    """Whether the finding makes the upgrade unsafe."""
    text: str


def verdict_of(findings: Iterable[RehearsalFinding]) -> RehearsalVerdict:
    """Get the verdict that follows from all findings."""
    all_findings = list(findings)
    if any(finding.grave for finding in all_findings):
        return "not safe"
    return "safe with noted changes" if all_findings else "safe"
