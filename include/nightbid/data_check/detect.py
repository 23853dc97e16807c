"""Detects the format of a folder's files and the conventions of its text files."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from nightbid.config.folder_source import BIGQUERY, FolderSource
from nightbid.data.day_names import PACKED, SPELLED, SUFFIXES, day_of_path, is_format, is_tsv
from nightbid.data.delimited import FilePart, columns_of, kinds
from nightbid.data.delta import is_delta
from nightbid.data.iceberg import is_iceberg
from nightbid.data.layouts import CRITEO_DAY, LAYOUTS
from nightbid.data.places import BUCKETS, Place, open_place
from nightbid.data.record_files import tables
from nightbid.data.text_bytes import SEPARATOR
from nightbid.data.text_files import backslash_before_quote, open_text
from nightbid.data.text_values import TextFormat, kind_of
from nightbid.data.window_columns import dialect_of
from nightbid.data_check.columns import summarize
from nightbid.data_check.names import rank_of
from nightbid.data_check.time_formats import choose, formats_of
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.sampling.plain import plain_table

HEAD_BYTES = 1 << 18
FIRST_ROWS = 1000
DELIMITERS = ",\t;|"
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
NO_VALUES = ("NULL", "null", "NaN", "nan", "#N/A", "<null>")
"""Texts that databases and spreadsheets write for missing values.

In a text column they would be values. NA is not included, since it is a country code."""
LOOK_AT = 50
"""Maximum number of text files to search for one that is not empty, newest first."""
DECIMAL_COMMA = re.compile(r"^-?[0-9]+,[0-9]+$")


def source_block(folder: str, cache: Path) -> dict[str, Any]:
    """Describe a folder as the `source` block of a pipeline.

    Args:
        folder: Folder of daily files, local or gs://, s3:// or bq://.
        cache: Folder for copies of a bucket's files.

    Returns:
        The block, with only those keys that differ from their defaults.

    Raises:
        MissingDataError: There is no such folder, or it has no readable file.
        CorruptDataError: The text files have no header.
    """
    if folder.startswith(BIGQUERY):
        return {"kind": "bigquery", "folder": folder}
    place = open_place(folder, cache)
    is_bucket = folder.startswith(BUCKETS)
    block: dict[str, Any] = {"folder": folder if is_bucket else str(place.root.resolve())}
    if not is_bucket and is_delta(place.root):
        return {"kind": "delta", **block}
    if not is_bucket and is_iceberg(place.root):
        return {"kind": "iceberg", **block}
    files = [path for path, name in place.walk() if not name.endswith("/")]
    if (
        len(files) > 0
        and any(re.match(r".*_2022\d{4}.*\.parquet$", p.name) for p in files)
        and any(p.name.startswith("user_features_pure") for p in files)
    ):
        return {"kind": "kuairand", **block}
    kinds = Counter(kind for path in files if (kind := _format_of(path, place)))
    if not kinds:
        names = ", ".join(sorted(path.name for path in files)[:5]) or "nothing"
        raise MissingDataError(
            f"no file of a known format; the folder has {names}",
            where=folder,
            hint=f"files are {', '.join(f'*{ends[0]}' for ends in SUFFIXES.values())}, text files"
            f" also with {', '.join(PACKED)}; unpack others; days are named {SPELLED}",
        )
    kind = kinds.most_common(1)[0][0]
    if kind != "csv":
        return {"kind": kind, **block}
    texts = [path for path in files if _format_of(path, place) == "csv"]
    newest = sorted(texts, key=lambda path: path.as_posix(), reverse=True)[:LOOK_AT]
    for path in newest:  # jobs without rows may write empty files
        place.fetch([path])
        if _head(path).strip():
            return {"kind": kind, **block, **_text_settings(path)}
    return {"kind": kind, **block, **_text_settings(newest[0])}


def time_column(block: dict[str, Any], cache: Path) -> str:
    """Find the column that states the day of a row, by its name and its first values.

    Args:
        block: `source` block of a folder whose file names state no day.
        cache: Folder for copies of a bucket's files.

    Returns:
        The column in the newest file; empty if no column is named like a time and holds times.
    """
    kind = block["kind"]
    if kind not in SUFFIXES:
        return ""
    place = open_place(block["folder"], cache)
    files = [path for path, name in place.walk() if not name.endswith("/")]
    files = [path for path in files if is_format(path, kind, place.head)]
    newest = max(files, key=lambda path: path.as_posix())
    place.fetch([newest])
    typed = FolderSource.model_validate(block)
    part = FilePart(newest)
    if kind == "csv":
        dialect = dialect_of(typed, part)
        column_kinds = kinds(part, dialect, dict.fromkeys(columns_of(part, dialect), "null"))
        names = [
            name
            for name, column_kind in column_kinds.items()
            if column_kind in ("time", "int", "long")
        ]
    else:
        table = next(tables(part, kind, lambda name: True), None)
        columns = summarize(plain_table(table.slice(0, FIRST_ROWS))) if table is not None else []
        names = [column.name for column in columns if column.kind == "time"]
    ranked = [(rank, name) for name in names if (rank := rank_of(name, "time")) is not None]
    return min(ranked)[1] if ranked else ""


def _format_of(path: Path, place: Place) -> str | None:
    if CRITEO_DAY.match(path.name):
        return "csv"
    return next((kind for kind in SUFFIXES if is_format(path, kind, place.head)), None)


def _text_settings(path: Path) -> dict[str, Any]:
    """Detect encoding, delimiter, decimal mark and layout from the start of a file."""
    head = _head(path)
    settings: dict[str, Any] = {}
    encoding = _encoding(head)
    if encoding != "utf-8":
        settings["encoding"] = encoding
    text = head.decode(encoding, "ignore").removeprefix("\ufeff")
    lines = [line for line in text.splitlines()[:200] if line.strip()]
    match = SEPARATOR.match(lines[0].encode() + b"\n") if lines else None
    lines = lines[1:] if match else lines
    if not lines:
        raise CorruptDataError("the file is empty", where=str(path), hint="load the day again")
    first = lines[0]
    delimiter = max(DELIMITERS, key=lambda mark: (first.count(mark), -DELIMITERS.index(mark)))
    if CRITEO_DAY.match(path.name) or _is_criteo(first):
        return {**settings, "layout": "criteo"}
    if set(LAYOUTS["avazu"].types) - {"C1"} <= set(first.split(",")):
        return {**settings, "layout": "avazu"}
    if delimiter != ("\t" if is_tsv(path) else ","):
        settings["delimiter"] = delimiter
    csv.field_size_limit(HEAD_BYTES)  # a quotation mark may never be closed
    escape = None
    if delimiter != "\t" and backslash_before_quote(delimiter).search(text.encode()):
        settings["quote_escape"], escape = "backslash", "\\"
    rows = list(csv.reader(lines, delimiter=delimiter, escapechar=escape))
    if _is_data(rows):
        raise CorruptDataError(
            f"has no header: its first line is {first[:60]!r}",
            where=str(path),
            hint="set source.names to the columns, in order, in a pipeline YAML of your own",
        )
    values = [value for row in rows[1:] for value in row]
    commas = sum(bool(DECIMAL_COMMA.match(value)) for value in values)
    points = sum(bool(re.match(r"^-?[0-9]+\.[0-9]+$", value)) for value in values)
    if delimiter != "," and commas > points:
        settings["decimal"] = ","
    fields = {field.strip('" ') for line in text.splitlines() for field in line.split(delimiter)}
    if nulls := sorted(fields.intersection(NO_VALUES)):
        settings["nulls"] = nulls
    if form := _time_format(rows, path):
        settings["time_format"] = form
    return settings


def _head(path: Path) -> bytes:
    """Read the first bytes of a text file."""
    try:
        with open_text(path) as stream:
            return bytes(stream.read(HEAD_BYTES))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(
            f"cannot be read: {' '.join(str(error).split())}",
            where=str(path),
            hint="copy it again",
        ) from error


def _encoding(head: bytes) -> str:
    """Detect the encoding of a text file; a few invalid bytes among UTF-8 do not change it."""
    if head[:2] in BYTE_ORDER_MARKS:
        return "utf-16"
    text = head[: head.rfind(b"\n") + 1].decode("utf-8", "surrogateescape")
    others = [sign for sign in text if not sign.isascii()] if not text.isascii() else []
    invalid = sum("\udc80" <= sign <= "\udcff" for sign in others)
    if invalid < len(others) - invalid or not invalid:
        return "utf-8"
    try:  # bytes that Windows-1252 lacks mean Latin-1
        head.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _time_format(rows: list[list[str]], path: Path) -> str:
    """Detect the format of a file's times; columns that are named like times come first."""
    day = day_of_path(path)
    columns = sorted(
        zip(rows[0], zip(*rows[1:], strict=False), strict=False),
        key=lambda column: rank if (rank := rank_of(column[0], "time")) is not None else 99,
    )
    for _, values in columns:
        if kind_of(pa.array(values, pa.binary()), TextFormat()) == "time":
            continue  # ISO 8601 needs no format
        if form := choose(formats_of(values), values, day):
            return form
    return ""


def _is_criteo(line: str) -> bool:
    fields = line.split("\t")
    return len(fields) == len(LAYOUTS["criteo"].names) and fields[0] in ("0", "1")


def _is_data(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line holds values: it looks like the columns of numbers and times.

    Without other lines, or without such columns, most of its fields must be numbers.
    """
    first, others = rows[0], rows[1:]
    if len(first) < 2:
        return False
    alike = different = 0
    for at, field in enumerate(first):
        values = [row[at] for row in others if at < len(row) and row[at]]
        if field and values and all(map(_is_number_or_time, values)):
            alike += _is_number_or_time(field)
            different += not _is_number_or_time(field)
    if alike or different:
        return alike > different
    return sum(map(_is_number_or_time, first)) * 2 > len(first)


def _is_number_or_time(field: str) -> bool:
    return re.fullmatch(r"[0-9.,:+\- ]*[0-9][0-9.,:+\-TZ ]*", field) is not None
