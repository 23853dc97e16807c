"""`nightbid data`: inspects, fetches, writes and freezes the logs of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from nightbid.cli.data_forget import forget
from nightbid.cli.data_frozen import freeze, frozen
from nightbid.cli.data_prune import prune
from nightbid.cli.dates import date_option
from nightbid.cli.listing import Listing, text_column
from nightbid.cli.output import AsJson, print_json, terminal
from nightbid.cli.root import Overrides, PipelineName
from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.config.sources import ObdSource
from nightbid.counts import counted
from nightbid.data.source import Source, open_source
from nightbid.data.write import write_day, write_streams
from nightbid.errors import DataError
from nightbid.partitions import STEPS, count_between
from nightbid.sampling.labels import label_of
from nightbid.schema import REASON, TEXT

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
console = terminal()

Date = Annotated[date, date_option("Day of logs.")]


@app.command()
def days(pipeline: PipelineName, set_: Overrides = None, as_json: AsJson = False) -> None:
    """List the days that a pipeline's source has."""
    spec, source = _opened(pipeline, set_)
    days = source.days()
    if as_json:
        print_json({"source": spec.source.kind, "days": days})
        return
    if days is None:
        console.print(f"{spec.source.kind}: any day can be generated")
        return
    if not days:
        console.print(f"{spec.source.kind}: no days")
        return
    step, present = STEPS[spec.partition], set(days)
    span = count_between(days[0], days[-1], spec.partition)
    missing = [day for at in range(span) if (day := days[0] + at * step) not in present]
    for day in days:
        console.print(day.isoformat())
    gaps = f": {', '.join(map(str, missing[:10]))}" if missing else ""
    console.print(
        f"{counted(len(days), spec.partition)}, {days[0]} to {days[-1]}; {len(missing)} missing in"
        f" between{gaps}"
    )


@app.command()
def show(
    pipeline: PipelineName,
    date_: Date,
    rows: Annotated[int, typer.Option(min=0, help="Number of rows to print.")] = 5,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show one day: columns, rows, label rate and the first rows."""
    spec, source = _opened(pipeline, set_)
    day = spec.partition_at(date_)
    head: pa.Table | None = None
    count, positives, unclear = 0, 0.0, 0
    nulls: dict[str, int] = {}
    for batch in source.batches(day):
        if head is None:
            head = pa.Table.from_batches([batch.slice(0, rows)])
        count += batch.num_rows
        for name in batch.schema.names:
            nulls[name] = nulls.get(name, 0) + batch[name].null_count
        if spec.label.column in batch.schema.names:
            value = label_of(batch, spec)
            positives += float(np.nansum(value))
            unclear += int(np.isnan(value).sum())
    if as_json:
        print_json(
            {
                "day": day,
                "rows": count,
                "positives": positives,
                "label_unclear": unclear,
                "columns": {}
                if head is None
                else {
                    column.name: {"type": str(column.type), "nulls": nulls[column.name]}
                    for column in head.schema
                },
                "head": [] if head is None else head.to_pylist(),
            }
        )
        return
    if head is None:
        console.print(f"{day}: the day exists but has no rows")
        return
    console.print(_columns(spec, source, head.schema, nulls, count))
    label = f"label {spec.label.column!r}: "
    if spec.label.column not in head.column_names:
        label += "no such column"
    else:
        known = count - unclear
        label += f"rate {positives / known:.4f}" if known else "no value is 0 or 1"
        label += f", neither 0 nor 1 in {counted(unclear, 'row')}" if unclear else ""
    console.print(f"{day}: {counted(count, 'row')} · {label}")
    for at, row in enumerate(head.to_pylist(), 1):
        shown = Listing(f"row {at}", text_column(""))
        for name, value in row.items():
            if name not in (REASON, TEXT) or value is not None:  # why a row is set aside
                shown.add_row(name, str(value))
        console.print(shown)


@app.command()
def check(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder of daily files; also gs://…, s3://… or bq://….", metavar="FOLDER"
        ),
    ],
    write: Annotated[
        Path | None, typer.Option("--write", help="Pipeline YAML to write: NAME.yaml.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything found, as JSON.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Inspect a folder of logs and draft a pipeline for it: days, columns, roles, label, leaks."""
    from nightbid.cli.data_check import check as check_folder

    check_folder(folder, write, as_json, force, Settings().cache, console)


@app.command()
def arrival(
    pipeline: PipelineName,
    date_: Annotated[
        date | None,
        date_option("Night; default: the last complete one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show whether the newest day of a night has arrived; exit with 3 if it has not."""
    from nightbid.cli.arrival import show_arrival

    if not show_arrival(pipeline, date_, Settings(), console, as_json=as_json):
        raise typer.Exit(DataError.exit_code)


@app.command()
def late(
    pipeline: PipelineName,
    nights: Annotated[int, typer.Option(min=1, help="Number of newest nights to show.")] = 30,
    make: Annotated[bool, typer.Option("--make", help="Rerun these nights.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the nights whose days arrived late or were corrected, and rerun them with --make."""
    from nightbid.cli.arrival import show_late

    show_late(pipeline, nights, Settings(), console, make=make, as_json=as_json)


@app.command()
def fetch(pipeline: PipelineName, set_: Overrides = None) -> None:
    """Download the files of a pipeline's source into the cache, and check their digests."""
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines, tuple(set_ or ()))
    if not isinstance(spec.source, ObdSource):
        console.print(f"{spec.source.kind}: nothing to download")
        return
    from nightbid.data.obd import DIGEST
    from nightbid.data.obd import fetch as fetch_archive

    path = fetch_archive(settings.cache)
    console.print(f"{path} · {path.stat().st_size:,} bytes · sha256 {DIGEST}", soft_wrap=True)


app.command()(freeze)
app.command()(frozen)


@app.command()
def write(
    pipeline: PipelineName,
    to: Annotated[Path, typer.Option("--to", help="Folder for the dt=YYYY-MM-DD partitions.")],
    date_: Date,
    days: Annotated[int, typer.Option(min=1, help="Consecutive days from that date on.")] = 1,
    streams: Annotated[
        bool,
        typer.Option(
            "--streams",
            help="Write impressions/, clicks/ and conversions/ separately, for `kind: events`.",
        ),
    ] = False,
    set_: Overrides = None,
) -> None:
    """Write days of a source as daily Parquet partitions, for `kind: parquet`."""
    spec, source = _opened(pipeline, set_)
    first = spec.partition_at(date_)
    partitions = [first + at * STEPS[spec.partition] for at in range(days)]
    if streams:
        with console.status(Text(f"{spec.source.kind} → {to}")):
            rows = write_streams(source, spec.columns, partitions, to)
        counts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
        console.print(
            f"{counts} of {counted(len(partitions), spec.partition)} in {to}", soft_wrap=True
        )
        return
    total = read = 0

    def counting(day: date) -> Iterator[pa.RecordBatch]:
        nonlocal read
        for batch in source.batches(day):
            read += batch.num_rows
            yield batch

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(escape(f"{spec.source.kind} → {to}"), total=len(partitions))
        for day in partitions:
            total += write_day(counting(day), to, day)
            bar.advance(task)
    text = f"{counted(total, 'row')} of {counted(len(partitions), spec.partition)} in {to}"
    if left := read - total:
        text += f"; without {counted(left, 'row')} that could not be read"
    console.print(text, soft_wrap=True)


app.command()(prune)
app.command()(forget)


def _opened(pipeline: str, overrides: list[str] | None) -> tuple[PipelineSpec, Source]:
    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines, tuple(overrides or ()))
    return spec, open_source(spec.source, settings.cache)


def _columns(
    spec: PipelineSpec, source: Source, schema: pa.Schema, nulls: dict[str, int], rows: int
) -> Table:
    roles = {column: role for role, column in spec.columns.by_role.items()}
    roles[spec.label.column] = "label"
    truth = set(source.meaning.truth.values())
    outcomes = {*source.meaning.outcomes, spec.label.column} - truth
    table = Listing("column", text_column("type"), "null", text_column("role"))
    for field in schema:
        if field.name in (REASON, TEXT):
            continue
        role = roles.get(field.name, "")
        if field.name in truth:
            role = "truth, never a feature"
        elif field.name in outcomes:
            role = f"{role or 'outcome'}, never a feature"
        share = nulls[field.name] / rows if rows else 0.0
        table.add_row(field.name, str(field.type), f"{share:.1%}" if share else "", role)
    return table
