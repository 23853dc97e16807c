"""`nightbid rehearse`: tries an upgrade of pinned packages next to the current environment."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nightbid.config.load import pipeline_names
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import ConfigError
from nightbid.night.record import runs_of
from nightbid.rehearse.findings import TITLES
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.rehearse.rehearsal import Rehearsal
from nightbid.rehearse.report import RehearsalReport, read_report, report_folder
from nightbid.report.formatting import duration, money, number, signed
from nightbid.storage.workspace import Workspace

STYLE = {"safe": "green", "safe with noted changes": "yellow", "not safe": "red"}


def newest_pipeline(settings: Settings) -> str:
    """Get the name of the pipeline that ran last.

    Raises:
        ConfigError: No pipeline has run.
    """
    workspace = Workspace(settings.workspace)
    last = [
        (runs[-1].head.started, name)
        for name in pipeline_names(settings.pipelines)
        if (runs := runs_of(workspace, name))
    ]
    if not last:
        raise ConfigError(
            "no pipeline has run in this workspace",
            where=str(workspace.root),
            hint="run a night first: `nightbid run PIPELINE --date …`",
        )
    return max(last)[1]


def run_rehearsal(
    plan: RehearsalPlan, settings: Settings, console: Console, *, again: bool = False
) -> RehearsalReport:
    """Run a rehearsal, or reuse its existing report, and print its table.

    Raises:
        NightbidError: The rehearsal cannot continue.
    """
    workspace = Workspace(settings.workspace)
    report = None if again else read_report(workspace, plan)
    if report is not None and report.finished:
        console.print(Text.assemble(("rehearsed before", "cyan"), "; --again repeats it"))
    else:
        console.rule(Text(plan.name, "bold"))
        rehearsal = Rehearsal(plan, settings, lambda line: console.print(line, highlight=False))
        report = rehearsal.run(again=again)
    console.print(_table(report))
    for cause in report.causes:
        packages = ", ".join(cause.packages) or "–"
        text = Text.assemble(f"{TITLES[cause.kind]}: caused by ", (packages, "bold"))
        text.append(f" ({counted(cause.steps, 'environment')} tried)" if cause.steps else "")
        if not cause.finished:
            text.append(" not finished", "yellow").append(f": {cause.reason}")
        console.print(text, soft_wrap=True)
    spent = f"  {money(report.cost_usd)} at cloud prices, {duration(report.seconds)}"
    console.print(Text.assemble((report.verdict, STYLE[report.verdict]), spent))
    page = report_folder(workspace, plan) / "rehearsal.html"
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
    return report


def _migration(done: dict[str, Any]) -> str:
    if done["error"]:
        return "not migrated"
    return (
        f"{done['what']} migrated in {duration(done['seconds'])}:"
        f" {counted(done['tables'], 'table')}, {counted(done['rows'], 'row')}"
    )


def _table(report: RehearsalReport) -> Table:
    table = Table(
        "", "candidate against present", box=None, show_header=False, padding=(0, 2, 0, 0)
    )
    changes = ", ".join(report.changes[:6]) or "the same lock"
    more = f" and {len(report.changes) - 6} more" if len(report.changes) > 6 else ""
    table.add_row("packages", changes + more)
    compared = report.compared
    table.add_row("features", compared["features_equal"] or "not compared")
    figures = compared["metrics"]
    wrong = sum(not figure["same"] for figure in figures)
    if figures:
        table.add_row(
            "metrics", f"{counted(len(figures), 'figure')} of the same predictions, "
            + (counted(wrong, "differs", "differ") if wrong else "all agree to 1e-9"),
        )  # fmt: skip
    if (training := compared["training"]) is not None:
        table.add_row(
            "training",
            f"normalized entropy {signed(training['mean'], 5)}"
            f" [{signed(training['low'], 5)}, {signed(training['high'], 5)}],"
            f" margin {training['margin']:g}, seeds alone {number(training['seed_noise'], 5)}",
        )
    predictions = [comparison for _, comparison in compared["predictions"]]
    if predictions:
        largest = max(comparison["largest"] for comparison in predictions)
        users = sum(comparison["rankings"] for comparison in predictions)
        share = sum(comparison["rankings_changed"] for comparison in predictions) / max(users, 1)
        note = f"largest difference {largest:.3g}, {share:.1%} of rankings change"
        table.add_row("predictions", note if largest else "identical")
    for row in compared["models"]:
        note = row.get("error") or f"largest difference {row['largest']:.3g}"
        table.add_row("model", f"{row['model']}: {note}")
    for row in compared["speed"]:
        if row["what"] in ("seconds", "p99, ms") and row["stage"] != "evaluate":
            bounds = ""
            if row["low"] is not None:
                bounds = f" [{number(row['low'], 2)}, {number(row['high'], 2)}]"
            table.add_row(
                f"{row['stage']}, {row['what']}",
                f"{number(row['before'], 2)} → {number(row['after'], 2)}, times"
                f" {number(row['ratio'], 2)}{bounds}",
            )
    if (migrated := compared.get("metadata")) is not None:
        table.add_row("Airflow's metadata", _migration(migrated))
    table.add_row("warnings", counted(len(compared["warnings"]), "new deprecation warning"))
    for finding in report.findings:
        mark = Text("not safe", "red") if finding.grave else Text("noted", "yellow")
        table.add_row(mark, finding.text)
    return table
