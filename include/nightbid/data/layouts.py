"""Published log formats: how their files map to days, and the columns that they lack.

Neither Criteo's nor Avazu's files have all columns that a pipeline needs. The missing ones are
added, so that the default `columns` of a pipeline fit:

Criteo (Kaggle's `train.txt`, or the terabyte's `day_0` … `day_23`; no header)
    ``label``, ``I1`` to ``I13`` int, ``C1`` to ``C26`` string. Day by file (`first_day`); a single
    file is split into `days_per_file` equal parts, since it is in order of time. Added:
    ``impression_id`` (day and line), ``time`` (the day's start; hour features are meaningless),
    ``user_id`` (the impression id, since users are unknown; confidence intervals resample rows).
iPinYou (`imp.20130606.txt.bz2` with `clk.20130606.txt.bz2`)
    See `nightbid.data.ipinyou`.
Avazu (Kaggle's `train`, or one file a day)
    ``click``, ``hour`` as YYMMDDHH, ``C1``, ``banner_pos``, … ``C21``. Added: ``impression_id``
    (the text of ``id``), ``time`` (start of the hour), ``user_id`` (``device_id``, or
    ``device_ip`` and ``device_model`` if ``device_id`` has the value for an unknown device).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.folder_source import ColumnType, FolderSource
from nightbid.data import ipinyou
from nightbid.data.day_names import SUFFIXES
from nightbid.data.delimited import FilePart
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.partitions import HourPartition, first_hour
from nightbid.time_parsing import MICROSECOND

CRITEO_DAY = re.compile(r"^day_(\d{1,3})(\.(gz|csv|tsv|txt|bz2|zst))*$")
NO_DEVICE = "a99f214a"
"""Avazu's `device_id` of an unknown device, in four of five impressions."""


@dataclass(frozen=True)
class FileLayout:
    """How the files of a published format are read."""

    names: tuple[str, ...] = ()
    """Columns in order, if files have no header."""
    types: Mapping[str, ColumnType] = field(default_factory=dict)
    """Types of the columns in the file."""
    make: Callable[[pa.Table, date, int], pa.Table] | None = None
    """Adds the missing columns; takes rows, their day and the number of the first row."""
    made: tuple[str, ...] = ()
    """The columns that `make` adds."""
    outcomes: tuple[str, ...] = ()


def criteo_days(block: FolderSource, root: Path) -> dict[date, list[FilePart]]:
    """Map days to Criteo's `day_<n>` files, or to equal parts of a single file.

    Raises:
        MissingDataError: There is no log file, or more than one candidate.
        CorruptDataError: The single file is compressed and cannot be split.
    """
    numbered = {}
    for path in sorted(root.iterdir()):
        match = CRITEO_DAY.match(path.name)
        if match:
            numbered[block.first_day + timedelta(days=int(match.group(1)))] = [FilePart(path)]
    if numbered:
        return dict(sorted(numbered.items()))
    path = single_file(block, root)
    if block.days_per_file == 1:
        return {block.first_day: [FilePart(path)]}
    if path.suffix in (".gz", ".bz2", ".zst"):
        raise CorruptDataError(
            f"a compressed file cannot be split into {block.days_per_file} days",
            where=str(path),
            hint="unpack it, or set source.days_per_file to 1",
        )
    edges = _line_starts(path, block.days_per_file)
    return {
        block.first_day + timedelta(days=at): [FilePart(path, edges[at], edges[at + 1])]
        for at in range(block.days_per_file)
    }


def single_file(block: FolderSource, root: Path) -> Path:
    """Find the one file that holds all days; `train`, Kaggle's name, takes precedence.

    Raises:
        MissingDataError: There is no log file, or more than one candidate.
    """
    files = [
        path
        for path in sorted(root.iterdir())
        if path.is_file() and (path.name.endswith(SUFFIXES["csv"]) or not path.suffix
                               or path.suffix == ".gz")
    ]  # fmt: skip
    chosen = [path for path in files if path.name.split(".")[0] == "train"] or files
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen[:5]) or "none"
        raise MissingDataError(
            f"expected one log file in the layout {block.layout!r}, found {names}",
            where=str(root),
            hint="put the day in the file names, or keep only one file (or one called train)",
        )
    return chosen[0]


def _line_starts(path: Path, parts: int) -> list[int]:
    """Byte offsets of the first lines of equal parts, followed by the file's size."""
    size = path.stat().st_size
    edges = [0]
    with open(path, "rb") as stream:
        for at in range(1, parts):
            stream.seek(max(size * at // parts - 1, 0))
            stream.readline()
            edges.append(max(stream.tell(), edges[-1]))
    return [*edges, size]


def row_keys(day: date, first: int, rows: int) -> pa.Array:
    """Make int64 keys from the day or hour and the row numbers, which start at `first`."""
    start = first_hour(day) if isinstance(day, HourPartition) else day.toordinal()
    return pa.array(start * 10**11 + first + np.arange(rows, dtype=np.int64))


def _criteo(table: pa.Table, day: date, first: int) -> pa.Table:
    key = row_keys(day, first, len(table))
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return (
        table.append_column("impression_id", key)
        .append_column("time", pa.array(np.full(len(table), np.datetime64(start.replace(
            tzinfo=None), "us"))).cast(MICROSECOND))
        .append_column("user_id", key)
    )  # fmt: skip


def _avazu(table: pa.Table, day: date, first: int) -> pa.Table:
    named = pc.not_equal(table["device_id"], NO_DEVICE)
    address = pc.binary_join_element_wise(table["device_ip"], table["device_model"], "-")
    return (
        table.append_column("impression_id", table["id"])
        .append_column("time", avazu_time(table["hour"]))
        .append_column("user_id", pc.if_else(named, table["device_id"], address))
    )


def avazu_time(hour: pa.ChunkedArray) -> pa.Array:
    """Parse YYMMDDHH to timestamp[us, UTC]; invalid times become null."""
    text = pc.utf8_lpad(hour.cast(pa.string()), 8, "0")
    return pc.strptime(text, format="%y%m%d%H", unit="us", error_is_null=True).cast(MICROSECOND)


LAYOUTS = {
    "plain": FileLayout(),
    "criteo": FileLayout(
        names=("label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))),
        types={
            "label": "int",
            **{f"I{n}": "int" for n in range(1, 14)},
            **{f"C{n}": "string" for n in range(1, 27)},
        },
        make=_criteo,
        made=("impression_id", "time", "user_id"),
        outcomes=("label",),
    ),
    "avazu": FileLayout(
        types={
            "id": "string", "click": "int", "hour": "int", "C1": "string", "banner_pos": "int",
            **dict.fromkeys(("site_id", "site_domain", "site_category", "app_id", "app_domain",
                             "app_category", "device_id", "device_ip", "device_model",
                             "device_type", "device_conn_type",
                             *(f"C{n}" for n in range(14, 22))), "string"),
        },
        make=_avazu,
        made=("impression_id", "time", "user_id"),
        outcomes=("click",),
    ),
    "ipinyou": FileLayout(
        names=ipinyou.NAMES,
        types={
            **dict.fromkeys(ipinyou.NAMES, "string"),
            **dict.fromkeys((*ipinyou.PRICES, "slot_width", "slot_height"), "int"),
        },
        made=ipinyou.MADE,
        outcomes=("click",),
    ),
}  # fmt: skip
