"""`nightbid data check`: inspects a folder of logs and drafts a first pipeline for it."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nightbid.config.load import parse_pipeline
from nightbid.counts import counted
from nightbid.data_check.check import FolderReport, check_folder, is_complete, pipeline_name
from nightbid.data_check.partitions import unit_of
from nightbid.errors import ConfigError, MissingDataError
from nightbid.storage.files import write_atomically


def check(
    folder: str, write: Path | None, as_json: bool, force: bool, cache: Path, console: Console
) -> None:
    """Print the content of a folder, and write a first pipeline YAML.

    Raises:
        ConfigError: The file to write exists already, or is not a valid name of a pipeline.
        MissingDataError: The folder has no day, or no column fits a required role.
    """
    name = write.stem if write else pipeline_name(folder)
    if write and write.exists() and not force:
        raise ConfigError(
            "the file already exists", where=str(write), hint="choose another name, or add --force"
        )
    if write and write.suffix != ".yaml":
        raise ConfigError(
            f"{write.name!r} is not a file name for a pipeline YAML",
            where="--write",
            hint=f"end it with .yaml, for example {name}.yaml",
        )
    report = check_folder(folder, cache, name)
    night = report.days[-1]
    if is_complete(report):  # what is handed out can be read
        spec = parse_pipeline(report.yaml, f"{name}.yaml")
        if spec.source.kind == "events":  # a night waits for the events of its newest day
            night += timedelta(days=spec.label.attribution_days)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
    else:
        _print(report, console)
    if write:
        write.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(write, report.yaml)
    if not is_complete(report):
        missing = report.found.missing
        raise MissingDataError(
            f"no column for {', '.join(missing)}: "
            + "; ".join(f"{role} is {reason}" for role, reason in missing.items()),
            where=folder,
            hint=f"fill in the lines with ??? in {write}"
            if write
            else "write the draft with --write NAME.yaml and fill in the lines with ???",
        )
    if as_json:
        return
    if write:
        console.print(f"\nwritten: {write}", soft_wrap=True, markup=False, highlight=False)
        console.print(
            f"next: nightbid run {name} --date {night} --until gate_raw",
            soft_wrap=True,
            highlight=False,
        )
    else:
        console.print("\nDraft pipeline (--write NAME.yaml saves it):\n", highlight=False)
        console.print(report.yaml, markup=False, highlight=False, soft_wrap=True)


def _print(report: FolderReport, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    findings, block = report.found, report.block
    options = ", ".join(
        f"{key}: {_short(value)}" for key, value in block.items() if key != "folder"
    )
    gaps = report.gaps
    note = f"; {len(gaps)} missing: {', '.join(map(str, gaps[:5]))}" if gaps else ", none missing"
    say(f"source   {options}")
    unit = f"{unit_of(block)}s"
    say(f"{unit:<8} {len(report.days)}, {report.days[0]} to {report.days[-1]}{note}")
    rows = sum(report.sampled.values())
    say(f"sample   {counted(rows, 'row')} of {', '.join(map(str, report.sampled))}")
    for reason, count in sorted(report.unread.items(), key=lambda pair: -pair[1])[:3]:
        say(f"unread   {counted(count, 'row')}: {reason}")
    table = Table("column", "type", "null", "distinct", "examples", "seems to be", box=None,
                  padding=(0, 2, 0, 0), header_style="underline")  # fmt: skip
    for column in report.columns:
        table.add_row(
            column.name,
            column.type[:24],
            f"{column.nulls:.1%}" if column.nulls else "",
            f"{column.distinct:,}" if column.distinct else "",
            ", ".join(column.examples)[:40],
            ", ".join(report.meaning(column.name)),
        )
    console.print(table)
    for label in findings.labels:
        chosen = " (the label)" if label.column == findings.label else ""
        distribution = f"rate {label.rate:.4f}, {counted(label.positives, 'positive')}"
        if label.kind == "value":
            distribution = f"{label.rate:.4f} above 0, mean {label.mean:,.4g}"
        say(f"label    {label.column}: {distribution}{chosen}")
    for label in findings.amounts:
        if label not in findings.labels:
            say(f"amount   {label.column}: {label.rate:.4f} above 0, mean {label.mean:,.4g}"
                f" (label: {{kind: value, column: {label.column}}} predicts it)")  # fmt: skip
    for name, why in findings.outcomes.items():
        say(f"outcome  {name}: {why}")
    for clock in findings.clocks:
        zone = f"{clock.inside_zone:.1%} by the clock of {clock.zone}" if clock.is_local else ""
        alike = f" ({', '.join(clock.alike)} alike)" if clock.is_local and clock.alike else ""
        say(
            f"clock    {clock.column}: {clock.inside:.1%} of the times are on their file's day, UTC"
            + (f"; {zone}{alike}" if zone else "")
            + (f"; {clock.future:.1%} are more than a day in the future" if clock.future else "")
        )
    if findings.anonymous.share:
        say(f"user     {findings.anonymous}")
    for name, days in findings.absent.items():
        say(
            f"absent   {name}: no value on {', '.join(map(str, days))}; if it was renamed,"
            " source.rename: {old: new} reads both names"
        )
    if score := findings.predictions:
        say(f"score    {score}: probabilities of another model, by its name (baseline: {{column:"
            f" {score}}} compares with it)")  # fmt: skip
    if findings.request:
        say(f"key      {findings.request} names a request, whose rows differ in"
            f" {findings.request_parts}: a key is generated (make_key)")  # fmt: skip
    elif findings.no_key:
        say("key      no column is unique per row: a key is generated (make_key)")
    elif findings.repeated:
        say(
            f"key      {counted(findings.repeated, 'row')} with the {findings.roles['key']} of an"
            " earlier row"
        )
        if lost := findings.repeated_positives:
            say(
                f"key      {counted(lost, 'of them has', 'of them have')} {findings.label} and the"
                " earlier row, which is kept, does not: join clicks to impressions (kind: events)"
            )


def _short(value: object) -> object:
    """Shorten a stream of events to its folder."""
    return value["folder"] if isinstance(value, dict) and "folder" in value else value
