"""`nightbid gates`: what the gates would stop, where limits come from, who let what pass."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from nightbid.config.gates import Gates, Override
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.gates.judge import in_words
from nightbid.gates.propose import Proposal, to_yaml
from nightbid.gates.propose import propose as learn_bands
from nightbid.runs import RunRecord
from nightbid.workspace import Workspace

app = typer.Typer(no_args_is_help=True)
console = Console()
GATES = ("raw", "features", "model", "serving", "cost")
SPARKS = "▁▂▃▄▅▆▇█"

PipelineName = Annotated[str, typer.Argument(help="Name of the pipeline.")]


@app.command()
def show(
    pipeline: PipelineName,
    run_id: Annotated[str, typer.Argument(help="Run id; default: the limits alone.")] = "",
) -> None:
    """Show the limits of a pipeline, or what the gates said of one run."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines)
    if run_id:
        _show_run(RunRecord.load(Workspace(settings.workspace), spec.pipeline, run_id))
        return
    console.print(_limits(spec.gates))


@app.command()
def propose(
    pipeline: PipelineName,
    days: Annotated[int, typer.Option(min=3, help="Newest nights to learn from.")] = 14,
    out: Annotated[
        Path | None, typer.Option(help="File; default: suites/<pipeline>.proposed.yaml")
    ] = None,
) -> None:
    """Learn limits from history and write them for review. Nothing changes until you rename it."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines)
    found = learn_bands(Workspace(settings.workspace), spec.pipeline, spec.gates, days)
    path = out or settings.pipelines / "suites" / f"{spec.pipeline}.proposed.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(spec.pipeline, found, spec.gates.overrides), encoding="utf-8")
    console.print(_proposed(found))
    final = path.with_name(f"{spec.pipeline}.yaml")
    console.print(
        f"{len(found)} bands in {path}: review them, then rename to {final.name}", soft_wrap=True
    )


@app.command()
def override(
    pipeline: PipelineName,
    check: Annotated[str, typer.Argument(help="gate/statistic, e.g. raw/psi:platform; * matches.")],
    name: Annotated[str, typer.Option(help="Who decides this.")],
    reason: Annotated[str, typer.Option(help="Why it is safe.")],
    until: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last night it holds.")],
) -> None:
    """Let a stop pass as a warning for a while; every page and report shows it until then."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines)
    gate, _, statistic = check.partition("/")
    if gate not in GATES or not statistic:
        raise ConfigError(
            f"cannot read the check {check!r}",
            where="override",
            hint=f"write it as gate/statistic, with gate one of {', '.join(GATES)}",
        )
    try:
        entry = Override.model_validate(
            {
                "gate": gate,
                "check": statistic,
                "name": name,
                "reason": reason,
                "until": until.date(),
            }
        )
    except ValueError as error:
        raise ConfigError(
            "an override needs a name and a reason of at least eight letters",
            where="override",
            hint="say who decides this and why it is safe",
        ) from error
    path = settings.pipelines / "suites" / f"{spec.pipeline}.yaml"
    suite = (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}
    suite.setdefault("overrides", []).append(entry.model_dump(mode="json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(suite, sort_keys=False, default_flow_style=None, width=120))
    past = (
        " (that day is past: it holds for old nights only)"
        if (until.date() < datetime.now(UTC).date())
        else ""
    )
    console.print(
        f"{check} warns instead of stopping until {until:%Y-%m-%d}{past}; in {path}", soft_wrap=True
    )


def _limits(gates: Gates) -> Table:
    table = Table("gate", "statistic", "warn unless", "stop unless", "from")
    for gate in GATES:
        block = getattr(gates, gate)
        for name in type(block).model_fields:
            limit = getattr(block, name)
            if hasattr(limit, "stop"):
                _row(table, gate, name, limit.warn, limit.stop, "general")
        for band in gates.bands:
            if band.gate == gate:
                _row(table, gate, band.statistic, band.warn, band.stop, band.why or "suite")
    for each in gates.overrides:
        table.add_row(
            each.gate,
            each.check,
            "[yellow]overridden[/]",
            f"until {each.until}",
            f"{each.name}: {each.reason}",
        )
    return table


def _row(
    table: Table,
    gate: str,
    name: str,
    warn: tuple[float | None, float | None] | None,
    stop: tuple[float | None, float | None] | None,
    origin: str,
) -> None:
    table.add_row(
        gate, name, in_words(warn) if warn else "", in_words(stop) if stop else "", origin
    )


def _proposed(found: list[Proposal]) -> Table:
    table = Table("gate", "statistic", "history", "largest", "warn unless", "stop unless")
    for each in found:
        band = each.band
        values = each.values[-40:]
        low, high = min(values), max(values)
        scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
        line = "".join(SPARKS[round((value - low) * scale)] for value in values)
        table.add_row(
            band.gate,
            band.statistic,
            line,
            f"{high:.4g}",
            in_words(band.warn) if band.warn else "",
            in_words(band.stop) if band.stop else "",
        )
    return table


def _show_run(run: RunRecord) -> None:
    for gate in GATES:
        record = run.stage(f"gate_{gate}")
        if record is None or not record.uri:
            continue
        folder = run.workspace.at(record.uri)
        result = json.loads((folder / "gate.json").read_text())
        console.print(f"[bold]{gate}[/] {result['verdict']}: {result['summary']}", soft_wrap=True)
        for check in result["checks"]:
            if check["verdict"] != "pass":
                console.print(
                    f"  {check['verdict']}  {check['name']}: {check['observed']},"
                    f" expected {check['expected']}  {check['detail']}",
                    soft_wrap=True,
                )
        console.print(f"  page: {folder / 'index.html'}", soft_wrap=True)
