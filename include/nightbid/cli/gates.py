"""`nightbid gates`: shows and proposes limits, measures seed noise and adds overrides."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from nightbid.cli import complete
from nightbid.cli.dates import date_option
from nightbid.cli.listing import Listing, text_column
from nightbid.cli.night import BarProgress
from nightbid.cli.output import AsJson, print_json, terminal
from nightbid.cli.root import PipelineName
from nightbid.config.gates import GATES, Gates
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import ConfigError
from nightbid.gates.judge import in_words
from nightbid.gates.overrides import add_override, read_suite, write_suite
from nightbid.gates.propose import Proposal, bands_of
from nightbid.gates.propose import propose as learn_bands
from nightbid.gates.result import read_result
from nightbid.night.record import RunRecord, runs_of
from nightbid.report.proposal_page import proposal_page
from nightbid.storage.workspace import Workspace
from nightbid.sweep.seed_variance import draw, spread

app = typer.Typer(no_args_is_help=True)
console = terminal()
SPARKS = "▁▂▃▄▅▆▇█"


@app.command()
def show(
    pipeline: PipelineName,
    run_id: Annotated[
        str,
        typer.Argument(
            help="Run id; without it, only the limits are shown.", autocompletion=complete.runs
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show the limits of a pipeline, or the results of the gates in one run."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines)
    if run_id:
        run = RunRecord.load(Workspace(settings.workspace), spec.pipeline, run_id)
        if as_json:
            print_json(dict(_results(run)))
        else:
            _show_run(run)
        return
    if as_json:
        print_json(spec.gates)
        return
    console.print(_limits(spec.gates))


@app.command()
def propose(
    pipeline: PipelineName,
    days: Annotated[int, typer.Option(min=3, help="Number of newest nights to learn from.")] = 14,
    out: Annotated[
        Path | None, typer.Option(help="Output file; default: suites/<pipeline>.proposed.yaml")
    ] = None,
) -> None:
    """Learn limits from past nights and write them for review. Renaming the file applies them."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines)
    proposals = learn_bands(Workspace(settings.workspace), spec.pipeline, spec.gates, days)
    path = out or _proposed_path(settings, spec.pipeline)
    suite = {**_suite(settings, spec.pipeline, path), "bands": bands_of(proposals)}
    write_suite(path, spec.pipeline, suite)
    final = path.with_name(f"{spec.pipeline}.yaml")
    page = path.with_suffix(".html")
    page.write_text(
        proposal_page(spec.pipeline, proposals, path=path, final=final), encoding="utf-8"
    )
    console.print(
        _proposed(
            [proposal for proposal in proposals if proposal.band and len(set(proposal.values)) > 1]
        )
    )
    console.print(
        f"{counted(len(suite['bands']), 'band')} in {path}: review, then rename to {final.name}\n"
        f"the history of every check: {page}",
        soft_wrap=True,
    )


@app.command()
def noise(
    pipeline: PipelineName,
    night: Annotated[
        date | None,
        date_option("Newest day of logs; default: the last night."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=50, help="Number of additional trainings.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Output file; default: suites/<pipeline>.proposed.yaml")
    ] = None,
) -> None:
    """Retrain a night's model with other seeds; write the spread of its metrics for review."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines)
    workspace = Workspace(settings.workspace)
    day = spec.partition_at(night) if night else _last_night(workspace, spec.pipeline)
    columns = (TextColumn("{task.description:<22}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def bar(name: str) -> BarProgress:
            return BarProgress(bars, bars.add_task(name, total=1.0, detail=""))

        draws = draw(workspace, spec, day, seeds, cache=settings.cache, progress=bar)
    seed_noise = spread(spec, day, draws)
    table = Table("seed", "AUC", "NE", title=f"{spec.pipeline}, night of {day}")
    for training in draws:
        table.add_row(
            str(training.seed), f"{training.auc:.5f}", f"{training.normalized_entropy:.5f}"
        )
    table.add_row(
        "spread", f"{seed_noise.auc:.5f}", f"{seed_noise.normalized_entropy:.5f}", style="bold"
    )
    console.print(table)
    path = out or _proposed_path(settings, spec.pipeline)
    measured = {"seed_noise": seed_noise.model_dump(mode="json")}
    write_suite(path, spec.pipeline, {**_suite(settings, spec.pipeline, path), **measured})
    console.print(
        f"two trainings differ by ±{2 * 2**0.5 * seed_noise.normalized_entropy:.4f} in NE and"
        f" ±{2 * 2**0.5 * seed_noise.auc:.4f} in AUC by their seeds alone (two standard deviations,"
        f" {len(draws)} seeds); in {path}: review it, then rename to {spec.pipeline}.yaml",
        soft_wrap=True,
    )


def _last_night(workspace: Workspace, pipeline: str) -> date:
    nights = [run.date for run in runs_of(workspace, pipeline) if run.stage("evaluate")]
    if not nights:
        raise ConfigError(
            f"no night of {pipeline!r} has been evaluated yet",
            where=str(workspace.root),
            hint=f"run one first (`nightbid run {pipeline} --date …`), or set --date",
        )
    return max(nights)


def _proposed_path(settings: Settings, pipeline: str) -> Path:
    return settings.pipelines / "suites" / f"{pipeline}.proposed.yaml"


def _suite(settings: Settings, pipeline: str, proposed: Path) -> dict[str, Any]:
    """Merge the active and the proposed suite, since a new proposal replaces the whole file."""
    final = settings.pipelines / "suites" / f"{pipeline}.yaml"
    in_force, under_review = read_suite(final), read_suite(proposed)
    # Overrides take effect at once, so the proposed file must not bring removed ones back.
    return {**in_force, **under_review, "overrides": in_force.get("overrides", [])}


@app.command()
def override(
    pipeline: PipelineName,
    check: Annotated[
        str,
        typer.Argument(
            help="Check as gate/statistic, such as raw/psi:platform; * matches any text.",
            autocompletion=complete.checks,
        ),
    ],
    name: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why it is safe.")],
    until: Annotated[
        datetime,
        typer.Option(
            formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="Last night of the override."
        ),
    ],
) -> None:
    """Let a stop pass as a warning until a date; pages and reports show the override."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines)
    path = add_override(
        settings, spec.pipeline, check, name=name, reason=reason, until=until.date()
    )
    past = (
        " (this date has passed: it applies to old nights only)"
        if (until.date() < datetime.now(UTC).date())
        else ""
    )
    console.print(
        f"{check} warns instead of stopping until {until:%Y-%m-%d}{past}; in {path}", soft_wrap=True
    )


def _limits(gates: Gates) -> Table:
    statistic = text_column("statistic")
    table = Listing("gate", statistic, "warn unless", "stop unless", text_column("from"))
    for gate in GATES:
        block = getattr(gates, gate)
        for name in type(block).model_fields:
            limit = getattr(block, name)
            if hasattr(limit, "stop"):
                _row(table, gate, name, limit.warn, limit.stop, "general")
        for band in gates.bands:
            if band.gate == gate:
                name = ": ".join(filter(None, (band.statistic, ", ".join(band.columns))))
                _row(table, gate, name, band.warn, band.stop, band.why or "suite")
    for override in gates.overrides:
        table.add_row(
            override.gate,
            override.check,
            Text("overridden", "yellow"),
            f"until {override.until}",
            f"{override.name}: {override.reason}",
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


def _proposed(proposals: list[Proposal]) -> Table:
    """Make a table of the proposed limits that changed; the page lists all."""
    statistic = Column("statistic", overflow="fold")
    table = Table("gate", "history", "largest", "warn unless", "stop unless", statistic)
    for proposal in proposals:
        band = proposal.band
        assert band is not None
        values = proposal.values[-40:]
        low, high = min(values), max(values)
        scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
        line = "".join(SPARKS[round((value - low) * scale)] for value in values)
        table.add_row(
            band.gate,
            line,
            f"{high:.4g}",
            in_words(band.warn) if band.warn else "",
            in_words(band.stop) if band.stop else "",
            band.statistic,
        )
    return table


def _results(run: RunRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the output URI and the result of each gate of a run."""
    for gate in GATES:
        record = run.stage(f"gate_{gate}")
        if record is not None and record.uri:
            folder = run.workspace.at(record.uri)
            result = read_result(folder)
            if result is None:
                continue
            excerpt = {key: result[key] for key in ("verdict", "summary", "checks", "findings")}
            yield gate, {**excerpt, "page": str(folder / "index.html")}


def _show_run(run: RunRecord) -> None:
    results = dict(_results(run))
    records = {gate: run.stage(f"gate_{gate}") for gate in GATES}
    judged = {gate: record for gate, record in records.items() if record and record.verdict}
    if not judged:
        console.print(f"no gate of {run.run_id} has judged yet", markup=False, soft_wrap=True)
    for gate, record in judged.items():
        if gate not in results:
            console.print(
                f"{gate} {record.verdict}: its output was deleted; a rerun of the night makes it"
                " again",
                markup=False,
                soft_wrap=True,
            )
            continue
        _show_result(gate, results[gate])


def _show_result(gate: str, result: dict[str, Any]) -> None:
    console.print(
        Text.assemble((gate, "bold"), f" {result['verdict']}: {result['summary']}"), soft_wrap=True
    )
    for check in result["checks"]:
        if check["verdict"] != "pass":
            console.print(
                f"  {check['verdict']}  {check['name']}: {check['observed']},"
                f" expected {check['expected']}  {check['detail']}",
                soft_wrap=True,
                markup=False,
            )
    console.print(f"  page: {result['page']}", soft_wrap=True)
