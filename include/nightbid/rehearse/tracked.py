"""Logs a rehearsal in the experiment tracking, like a night."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from nightbid.config.settings import Settings
from nightbid.rehearse.report import RehearsalReport, report_folder
from nightbid.storage.workspace import Workspace
from nightbid.tracking.log import TrackingOutcome, deliver, tracking_uri
from nightbid.tracking.payload import MetricPoint, Payload, safe_name
from nightbid.tracking.queue import Queue

EXPERIMENT = "rehearsals"
"""Name of the experiment with all rehearsals in the tracking store."""


def track(report: RehearsalReport, workspace: Workspace, settings: Settings) -> TrackingOutcome:
    """Log a rehearsal like a night; if the store is down, it is queued."""
    if not tracking_uri(settings, workspace):
        return TrackingOutcome("off")
    Queue(workspace).put(payload_of(report, workspace))
    return deliver(workspace, settings)


def payload_of(report: RehearsalReport, workspace: Workspace) -> Payload:
    """Collect the verdict, changes, causes and metrics of a rehearsal."""
    plan = report.plan
    changes = {
        safe_name(change.name): f"{change.before} → {change.after}" for change in plan.changes
    }
    folder = report_folder(workspace, plan)
    files = [name for name in ("rehearsal.html", "rehearsal.json") if (folder / name).exists()]
    return Payload(
        experiment=EXPERIMENT,
        run_id=plan.name,
        started=report.created - dt.timedelta(seconds=report.seconds),
        ended=report.created,
        failed=report.verdict == "not safe",
        parameters={"pipeline": plan.pipeline, "night": str(plan.date), "seeds": str(plan.seeds),
                    **changes},
        tags={"verdict": report.verdict, "causes": ", ".join(report.packages),
              "finding": report.sentence[:500]},
        metrics=tuple(_metrics(report)),
        artifacts=tuple(f"rehearsals/{plan.pipeline}/{plan.name}/{name}" for name in files),
    )  # fmt: skip


def _metrics(report: RehearsalReport) -> Iterator[MetricPoint]:
    yield MetricPoint(name="findings", value=len(report.findings))
    yield MetricPoint(
        name="grave_findings", value=sum(finding.grave for finding in report.findings)
    )
    yield MetricPoint(name="cost_usd", value=float(report.cost_usd))
    yield MetricPoint(name="seconds", value=report.seconds)
    if training := report.compared.get("training"):
        for name in ("mean", "low", "high"):
            yield MetricPoint(name=f"normalized_entropy_difference_{name}", value=training[name])
