"""`nightbid cost`: costs of past runs and forecasts."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nightbid.cli import complete
from nightbid.cli.cost_answers import money, show_answers, show_forecast
from nightbid.cli.listing import Listing
from nightbid.cli.output import AsJson, print_json, terminal
from nightbid.cli.root import PipelineName
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.cost.entries import LedgerEntry, fold
from nightbid.cost.focus import export_focus
from nightbid.cost.forecast import measured_rate
from nightbid.cost.ledger import Ledger, database, total
from nightbid.cost.ledger_files import FileLedger
from nightbid.cost.money import Money
from nightbid.cost.price_book import default_book
from nightbid.cost.pricing import price_million_predictions, price_serving
from nightbid.cost.reconcile import reconcile as reconcile_bill
from nightbid.cost.storage import kept_outputs
from nightbid.counts import counted
from nightbid.differences import signed
from nightbid.errors import ConfigError
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
console = terminal()


class CostGrouping(StrEnum):
    """Groups that costs are summed by."""

    stage = "stage"
    run = "run"
    day = "day"
    month = "month"
    service = "service"


class StorageClass(StrEnum):
    """Classes of Cloud Storage."""

    standard = "standard"
    nearline = "nearline"
    coldline = "coldline"
    archive = "archive"


class Focus(StrEnum):
    """Versions of the FOCUS specification that can be exported."""

    current = "1.4"
    old = "1.0"


@app.command()
def show(
    pipeline: PipelineName,
    by: Annotated[CostGrouping, typer.Option(help="Group costs by.")] = CostGrouping.stage,
    run_id: Annotated[str, typer.Option(help="Only this run.", autocompletion=complete.runs)] = "",
    as_json: AsJson = False,
) -> None:
    """Show what was spent here, and what the same usage costs in the cloud."""
    name = _known(pipeline)
    entries = Ledger(_workspace()).entries(pipeline=name, run_id=run_id or None)
    if not entries:
        raise ConfigError(
            f"no costs of {run_id or name!r} in the ledger",
            where=Settings().workspace,
            hint=f"run a night: `nightbid run {name} --date …`",
        )
    groups: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        groups.setdefault(_group(entry, by), []).append(entry)
    if as_json:
        print_json(
            [_sums({by.value: group}, group_entries) for group, group_entries in groups.items()]
        )
        return
    currency = entries[0].currency
    table = Listing(by.value, "attempts", "failed", "vCPU h", "GB h", f"here {currency}",
                    f"cloud {currency}")  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for group, group_entries in groups.items():
        table.add_row(group, *_row(group_entries))
    table.add_section()
    table.add_row("total", *_row(entries), style="bold")
    console.print(table)


@app.command()
def answers(pipeline: PipelineName, as_json: AsJson = False) -> None:
    """Show cost per run, AUC gained, and forecast vs. actual; alert if unusual."""
    show_answers(_workspace(), _known(pipeline), console, as_json=as_json)


@app.command()
def forecast(
    pipeline: PipelineName,
    nights: Annotated[
        int, typer.Option(min=1, help="Number of nights, or of trials in a sweep.")
    ] = 30,
    rows: Annotated[
        int, typer.Option(min=0, help="Rows per night; default: as in recent nights.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Forecast the cost of nights from past ones, with the error of earlier forecasts."""
    show_forecast(_workspace(), _known(pipeline), nights, rows or None, console, as_json=as_json)


@app.command()
def serving(
    pipeline: PipelineName,
    requests_per_second: Annotated[float, typer.Option(min=0, help="Expected load.")],
    headroom: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of each core kept free for peaks.")
    ] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Estimate the cost of a month of serving, from the newest load test."""
    name = _known(pipeline)
    rate = measured_rate(_workspace(), name)
    if rate is None:
        raise ConfigError(
            f"no load test of {name!r} yet: the requests per core are not known",
            where=Settings().workspace,
            hint=f"run a night: `nightbid run {name} --date …`",
        )
    today = datetime.now(UTC).date()
    per_core, book = rate.requests_per_second_per_core, default_book()
    cost = price_serving(requests_per_second, per_core, book, at=today, headroom=headroom)
    million = price_million_predictions(
        per_core, rate.candidates, book, at=today, headroom=headroom
    )
    requests = price_million_predictions(per_core, 1, book, at=today, headroom=headroom)
    if as_json:
        print_json({"a_month": cost, "per_million_predictions": million,
                    "per_million_requests": requests, "measured": rate})  # fmt: skip
        return
    console.print(
        f"{requests_per_second:,.0f} requests/s at {per_core:,.0f} per core, {headroom:.0%}"
        f" headroom: about {cost.amount:,.2f} {cost.currency} a month",
        soft_wrap=True,
    )
    console.print(
        f"{million} per million predictions, {counted(rate.candidates, 'candidate')} a request",
        soft_wrap=True,
    )
    condition = f"p99 held within {rate.p99_ms:g} ms over a socket" if rate.p99_ms else "in process"
    console.print(f"{requests} per million requests, {condition}", soft_wrap=True)


@app.command()
def storage(
    pipeline: PipelineName,
    storage_class: Annotated[
        StorageClass, typer.Option("--class", help="Storage class of the bucket.")
    ] = StorageClass.standard,
    as_json: AsJson = False,
) -> None:
    """Show the storage cost of each stage's outputs, by size and lifetime."""
    stages = kept_outputs(_workspace(), _known(pipeline), storage_class=storage_class)
    if as_json:
        print_json(stages)
        return
    table = Listing("stage", "outputs", "GB", "USD so far", "USD a month")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in stages:
        table.add_row(
            stage.stage,
            str(stage.outputs),
            _small(stage.size_bytes / 2**30),
            money(stage.so_far.amount),
            money(stage.per_month.amount),
        )
    table.add_section()
    table.add_row(
        "total",
        str(sum(stage.outputs for stage in stages)),
        _small(sum(stage.size_bytes for stage in stages) / 2**30),
        money(Money.total(stage.so_far for stage in stages).amount),
        money(Money.total(stage.per_month for stage in stages).amount),
        style="bold",
    )
    console.print(table)


@app.command()
def export(
    pipeline: PipelineName,
    out: Annotated[Path, typer.Argument(help="File to write: .csv or .parquet.")],
    focus: Annotated[
        Focus, typer.Option(help="Version of the FOCUS specification.")
    ] = Focus.current,
) -> None:
    """Export the ledger in the FinOps FOCUS format."""
    count = export_focus(Ledger(_workspace()).entries(pipeline=_known(pipeline)), out, focus)
    console.print(f"{counted(count, 'row')} in {out}", soft_wrap=True)


@app.command()
def reconcile(
    bill: Annotated[Path, typer.Argument(help="Billing export: CSV, FOCUS or Google columns.")],
    pipeline: Annotated[str, typer.Option(help="Only this pipeline's estimates.")] = "",
    as_json: AsJson = False,
) -> None:
    """Compare estimated and billed costs per run and stage; show the unexplained rest."""
    result = reconcile_bill(Ledger(_workspace()).entries(pipeline=pipeline or None), bill)
    if as_json:
        print_json(result)
        return
    table = Listing("pipeline", "run", "stage", "estimate", "invoice", "difference")
    for column in table.columns[3:]:
        column.justify = "right"
    for line in result.lines:
        table.add_row(
            *line.where,
            money(line.estimate.amount),
            money(line.invoice.amount),
            signed(line.difference),
        )
    console.print(table)
    console.print(f"unexplained rest of the bill: {result.unexplained}")


@app.command()
def page(
    pipeline: PipelineName,
    out: Annotated[Path, typer.Argument(help="HTML file to write.")],
) -> None:
    """Write the cost page: by month, and by night with the limit for unusual nights."""
    # Imported here because the other commands need no pages.
    from nightbid.report.links import Links
    from nightbid.report.pages import costs_document
    from nightbid.report.summaries import Summaries

    name = _known(pipeline)
    runs = Summaries(_workspace(), Settings().cache).of(name)
    write_atomically(out, costs_document(runs, links=Links(), pipelines=[name]))
    console.print(f"{counted(len(runs), 'run')} in {out}", soft_wrap=True)


@app.command()
def prices(as_json: AsJson = False) -> None:
    """Show the price book: every price with its validity and source."""
    if as_json:
        print_json(list(default_book().prices))
        return
    sources: dict[str, int] = {}
    tables: dict[str, Table] = {}
    for price in default_book().prices:
        title = f"{price.service}, {price.region}"
        if title not in tables:
            columns = ("resource", "price", "valid until", "source")
            tables[title] = Table(*columns, title=title, title_justify="left")
        source = f"{price.source} ({price.source_date})"
        tables[title].add_row(
            price.resource,
            f"{price.price} {price.currency}",
            str(price.valid_until),
            str(sources.setdefault(source, len(sources) + 1)),
        )
    for table in tables.values():
        console.print(table)
    for source, number in sources.items():
        console.print(f"{number:>2}  {source}", soft_wrap=True, highlight=False, markup=False)


@app.command()
def compact() -> None:
    """Compact the ledger's small files or rows. Safe while runs are active."""
    unit = "files" if database() is None else "rows"
    console.print(f"folded {Ledger(_workspace()).compact()} {unit}")


@app.command("import")
def import_files() -> None:
    """Import the workspace's ledger files into PostgreSQL. Safe to repeat."""
    if database() is None:
        raise ConfigError(
            "the ledger is already in the workspace's files",
            where="NIGHTBID_LEDGER",
            hint="set it to postgresql://user:password@host/database, then import",
        )
    observations = fold(FileLedger(_workspace()).read())
    Ledger(_workspace()).append(observations)
    found = counted(len(observations), "observation")
    console.print(f"the ledger has {found} of the workspace's files")


def _workspace() -> Workspace:
    return Workspace(Settings().workspace)


def _known(pipeline: str) -> str:
    # The costs of a pipeline outlive its YAML.
    if (_workspace().root / "runs" / pipeline).exists():
        return pipeline
    return find_pipeline(pipeline, Settings().pipelines).pipeline


def _group(entry: LedgerEntry, by: CostGrouping) -> str:
    return {
        CostGrouping.stage: entry.stage,
        CostGrouping.run: entry.run_id,
        CostGrouping.day: entry.day.isoformat(),
        CostGrouping.month: f"{entry.day:%Y-%m}",
        CostGrouping.service: entry.service,
    }[by]


def _sums(group: dict[str, str], entries: list[LedgerEntry]) -> dict[str, str]:
    attempts, failed, *_ = _row(entries)
    used = _hours(entries)
    return {
        **group,
        "attempts": attempts,
        "failed": failed,
        "vcpu_hours": f"{used['vcpu_hour']:.4f}",
        "memory_gb_hours": f"{used['memory_gb_hour']:.4f}",
        "here": str(total(entries, here=True).amount),
        "cloud": str(total(entries).amount),
        "currency": entries[0].currency,
    }


def _hours(entries: list[LedgerEntry]) -> dict[str, Decimal]:
    return {
        name: sum((entry.quantity for entry in entries if entry.resource == name), Decimal(0))
        for name in ("vcpu_hour", "memory_gb_hour")
    }


def _small(amount: Decimal | float) -> str:
    """Format an amount with four decimals; an amount above 0 never looks like 0."""
    return "<0.0001" if 0 < amount < 0.00005 else f"{amount:,.4f}"


def _row(entries: list[LedgerEntry]) -> list[str]:
    attempts = {(entry.run_id, entry.stage, entry.attempt): entry.state for entry in entries}
    used = _hours(entries)
    return [
        str(len(attempts)),
        str(sum(state in ("failed", "killed") for state in attempts.values())),
        _small(used["vcpu_hour"]),
        _small(used["memory_gb_hour"]),
        money(total(entries, here=True).amount),
        money(total(entries).amount),
    ]
