"""Check that every column type, format and role is read correctly or refused in one line.

    python benchmarks/readers.py                      # the table, as Markdown
    python benchmarks/readers.py --formats csv --verbose

For each cell, the script writes a day of 48 rows, samples it as a night does and compares it with
the original values. A cell is `right`, or `line` if a one-line error names the column, or `gate` if
no value is a number, which gate_features stops, or `-` if the format does not support the type.
Anything else is `WRONG`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.orc as orc
import pyarrow.parquet as pq
from nightbid.column_parsing import encode
from nightbid.config.pipeline import PipelineSpec, named_columns
from nightbid.data.source import open_source
from nightbid.errors import NightbidError
from nightbid.features.transforms.transform import transform_of
from nightbid.features.values import RawColumns, naming
from nightbid.number_parsing import numbers
from nightbid.sampling.day import ROWS, make
from nightbid.schema import KEY, LABEL, TIME, USER, WEIGHT

DAY = date(2026, 1, 5)
START = datetime(2026, 1, 5, tzinfo=UTC)
COUNT, VALUES = 48, 8
FORMATS = ("parquet", "orc", "avro", "jsonl", "csv", "tsv.gz")
ROLES = ("key", "time", "user", "vocabulary", "numeric", "label", "weight", "unused")
BIG = 2**63 + 11


@dataclass(frozen=True)
class Kind:
    """A column type: eight values and their meaning as numbers, times and flags."""

    name: str
    values: pa.Array
    numbers: list[float] | None = None
    times: list[datetime] | None = None
    flags: pa.Array | None = None
    """Zero and one as values of the type."""
    in_text: Kind | None = None
    """The type after a round trip through an untyped file."""


def kinds() -> list[Kind]:
    """Return every column type that occurs in logs."""
    whole = list(range(VALUES))
    parts = [at / 4 for at in whole]
    moments = [START + timedelta(hours=at) for at in whole]
    texts = [f"v{at}" for at in whole]
    types = [Kind("bool", pa.array([False, True]), [0, 1], None, pa.array([False, True]))]
    # Numbers read as times are seconds since 1970, or a smaller unit if they are large.
    seconds = [datetime.fromtimestamp(at, UTC) for at in whole]
    fractions = [datetime.fromtimestamp(at, UTC) for at in parts]
    for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        array = pa.array(whole, kind)
        types.append(Kind(kind, array, [float(at) for at in whole], seconds, array[:2]))
    types += [
        Kind("int64 beyond 2^53", pa.array([2**60 + at for at in whole]), None,
             [datetime.fromtimestamp(0, UTC) + timedelta(microseconds=2**60 // 1000)] * VALUES),
        Kind("uint64 beyond 2^63", pa.array([BIG + at for at in whole], pa.uint64())),
        Kind("int64, epoch seconds", pa.array([int(at.timestamp()) for at in moments]),
             None, moments),
        Kind("int64, epoch milliseconds", pa.array([int(at.timestamp()) * 1000 for at in moments]),
             None, moments),
        Kind("int64, epoch nanoseconds", pa.array([int(at.timestamp()) * 10**9 for at in moments]),
             None, moments),
    ]  # fmt: skip
    for kind in ("float16", "float32", "float64"):
        array = pa.array([np.float16(at) for at in parts] if kind == "float16" else parts, kind)
        flags = pa.array([np.float16(0), np.float16(1)] if kind == "float16" else [0, 1], kind)
        types.append(Kind(kind, array, parts, fractions, flags))
    money = pa.array([Decimal(f"{at / 4:.2f}") for at in whole], pa.decimal128(12, 2))
    decimal_flags = pa.array([Decimal("0.00"), Decimal("1.00")], pa.decimal128(12, 2))
    zero_one = pa.array(["0", "1"])
    types += [
        Kind("decimal128(12, 2)", money, parts, fractions, decimal_flags),
        Kind("decimal256(40, 2)", money.cast(pa.decimal256(40, 2)), parts, fractions,
             decimal_flags.cast(pa.decimal256(40, 2))),
        Kind("string", pa.array(texts), None, None, zero_one),
        Kind("string of numbers", pa.array([str(at) for at in parts]), parts, None,
             pa.array(["0.0", "1.0"]), Kind("", pa.array(parts), parts, fractions,
                                             pa.array(["0.0", "1.0"]))),
        Kind("string, leading zeros", pa.array([f"0{at}" for at in whole]),
             [float(at) for at in whole]),
        Kind("string of 20 digits", pa.array([str(10**19 + at) for at in whole])),
        Kind("string of times", pa.array([at.strftime("%Y-%m-%d %H:%M:%S UTC") for at in moments]),
             None, moments, None, Kind("", pa.array(moments), None, moments)),
        Kind("string, TRUE and FALSE", pa.array(["FALSE", "TRUE"]), None, None,
             pa.array(["FALSE", "TRUE"]), Kind("", pa.array([False, True]), [0, 1], None,
                                               pa.array(["FALSE", "TRUE"]))),
        Kind("string with quotes and breaks", pa.array(['a "quoted', "two\nlines", "tab\there",
             "comma, inside", "[/home]", "💡", "x" * 300, "semi;colon"])),
        Kind("large_string", pa.array(texts, pa.large_string()), None, None,
             zero_one.cast(pa.large_string())),
        Kind("string_view", pa.array(texts, pa.string_view()), None, None,
             pa.array(["0", "1"], pa.string_view())),
        Kind("binary", pa.array([at.encode() for at in texts]), None, None,
             pa.array([b"0", b"1"])),
        Kind("fixed_size_binary(2)", pa.array([at.encode() for at in texts], pa.binary(2))),
        Kind("uuid", pa.ExtensionArray.from_storage(pa.uuid(), pa.array(
             [uuid.UUID(int=2**127 + at).bytes for at in whole], pa.binary(16)))),
        Kind("json", pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(
             [json.dumps({"v": at}) for at in whole]))),
        Kind("dictionary of strings", pa.array(texts).dictionary_encode(), None, None,
             zero_one.dictionary_encode()),
        Kind("dictionary of integers", pa.array(whole).dictionary_encode(),
             [float(at) for at in whole], seconds, pa.array([0, 1]).dictionary_encode()),
        Kind("date32", pa.array([DAY + timedelta(days=at) for at in whole]), None,
             [START + timedelta(days=at) for at in whole]),
        Kind("date64", pa.array([DAY + timedelta(days=at) for at in whole], pa.date64()), None,
             [START + timedelta(days=at) for at in whole]),
    ]  # fmt: skip
    for unit in ("s", "ms", "us", "ns"):
        array = pa.array([at.replace(tzinfo=None) for at in moments], pa.timestamp(unit))
        types.append(Kind(f"timestamp[{unit}]", array, None, moments))
    types += [
        Kind("timestamp[us, UTC]", pa.array(moments, pa.timestamp("us", "UTC")), None, moments),
        Kind("timestamp[us, New York]", pa.array(moments, pa.timestamp("us", "America/New_York")),
             None, moments),
        Kind("time32", pa.array([time(at) for at in whole], pa.time32("s"))),
        Kind("duration", pa.array(whole, pa.duration("s")), [float(at) for at in whole], seconds),
        Kind("null", pa.nulls(VALUES)),
        Kind("list of strings", pa.array([[at, "z"] for at in texts])),
        Kind("list of integers", pa.array([[at, 9] for at in whole])),
        Kind("list of lists", pa.array([[[at], [9]] for at in whole])),
        Kind("fixed_size_list", pa.array([[at, 9] for at in whole], pa.list_(pa.int64(), 2))),
        Kind("struct", pa.array([{"a": at, "b": "x"} for at in whole])),
        Kind("map", pa.array([[("a", at)] for at in whole], pa.map_(pa.string(), pa.int64()))),
    ]  # fmt: skip
    return types


@dataclass(frozen=True)
class Cell:
    """The outcome of a type in a format and a role."""

    kind: str
    format: str
    role: str
    outcome: str
    told: str = ""


def cells(
    folder: Path, formats: tuple[str, ...] = FORMATS, roles: tuple[str, ...] = ROLES
) -> Iterator[Cell]:
    """Try every cell.

    Args:
        folder: New, empty folder.
        formats: Some of `FORMATS`.
        roles: Some of `ROLES`.
    """
    for at, kind in enumerate(kinds()):
        for name in formats:
            for role in roles:
                here = folder / f"{at}-{name}-{role}"
                outcome, message = _tried(here, kind, name, role)
                yield Cell(kind.name, name, role, outcome, message)


def _tried(folder: Path, kind: Kind, name: str, role: str) -> tuple[str, str]:
    codes = np.arange(COUNT) * 5 % len(kind.values)
    column = kind.values
    if role == "label" and kind.flags is not None:
        column, codes = kind.flags, np.arange(COUNT) % 3 // 2
    may_be_null = role in ("vocabulary", "numeric", "unused")
    null = may_be_null & (np.arange(COUNT) % 11 == 5)
    table = pa.table(
        {
            "id": [f"r{at}" for at in range(COUNT)],
            "at": pa.array([START + timedelta(minutes=at) for at in range(COUNT)],
                           pa.timestamp("us", "UTC")),
            "who": [f"u{at % 5}" for at in range(COUNT)],
            "click": [at % 4 // 3 for at in range(COUNT)],
        }
    )  # fmt: skip
    column_values = _taken(column, codes, null)
    if not _write(folder / "logs" / f"dt={DAY}", name, table.append_column("x", column_values)):
        return "-", ""
    spec = PipelineSpec.model_validate(
        {
            "pipeline": "readers",
            "source": {"kind": "csv" if name in ("csv", "tsv.gz") else name,
                       "folder": str(folder / "logs"),
                       **({"quoting": True} if name == "tsv.gz" else {})},
            "columns": {"key": "id", "time": "at", "user": "who", "item": None}
            | ({role: "x"} if role in ("key", "time", "user", "weight") else {}),
            "label": {"column": "x" if role == "label" else "click"},
            "features": {"f": {"column": "x", "transform": role}}
            if role in ("vocabulary", "numeric") else {"at": {}},
        }
    )  # fmt: skip
    try:
        rows, feature_values = _sampled(folder, spec, role)
    except NightbidError as error:
        text = str(error)
        names_it = "'x'" in text or "x is " in text or "features.f" in text
        return ("line" if "\n" not in text and names_it else "WRONG"), text
    except Exception as error:  # no other exception may escape
        return "WRONG", f"{type(error).__name__}: {error}"
    if name in ("csv", "tsv.gz"):
        kind = kind.in_text or kind
    return _compared(rows, feature_values, kind, role, codes, null)


def _taken(values: pa.Array, codes: np.ndarray, null: np.ndarray) -> pa.Array:
    if isinstance(values, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(values.type, _taken(values.storage, codes, null))
    if values.type == pa.string_view():  # string_view has no take kernel
        texts = [None if missing else values[int(at)].as_py()
                 for at, missing in zip(codes, null, strict=True)]  # fmt: skip
        return pa.array(texts, pa.string_view())
    return values.take(pa.array(codes, mask=null))


def _sampled(folder: Path, spec: PipelineSpec, role: str) -> tuple[pa.Table, Any]:
    source = open_source(spec.source, folder / "cache", (DAY,), named_columns(spec))
    out = folder / "out"
    out.mkdir()
    make(out, source, spec, "evaluate", DAY)
    rows = pq.read_table(out / ROWS)
    with naming("f"):
        if role == "vocabulary":
            return rows, RawColumns(rows).encoded("x", "f")[0]
        if role != "numeric":
            return rows, None
        return rows, transform_of("f", spec.features["f"]).values(RawColumns(rows))  # type: ignore[attr-defined]


def _compared(
    rows: pa.Table, found: Any, kind: Kind, role: str, codes: np.ndarray, null: np.ndarray
) -> tuple[str, str]:
    if role == "key":
        ids = np.asarray(rows[KEY])
        return _is(len(set(ids.tolist())) == len(rows) == len(set(codes.tolist())), len(rows))
    if len(rows) != COUNT and role != "weight":
        return "WRONG", f"{len(rows)} rows"
    if role == "user":
        codes = np.arange(COUNT) if kind.name == "null" else codes  # each is a user of its own
        return _is(_alike(np.asarray(rows[USER]), codes), "users are mixed")
    if role == "vocabulary":
        missing = null | (kind.name == "null")
        return _is(
            bool((found[missing] == -1).all()) and _alike(found[~missing], codes[~missing]),
            encode(rows["x"])[1].to_pylist()[:3],
        )
    if role == "numeric":
        if kind.numbers is None and np.isnan(found).all():
            return "gate", ""
        if kind.numbers is None:
            expected = numbers(_taken(kind.values, codes, null))  # ids: only their size is checked
            return _is(np.allclose(found, expected, rtol=1e-9, equal_nan=True), found[:3])
        expected = np.where(null, np.nan, np.array(kind.numbers)[codes])
        return _is(np.array_equal(found, expected, equal_nan=True), found[:3])
    if role == "time":
        if kind.times is None:
            return "WRONG", f"no times, and read as {rows[TIME][1]}"
        return _is(rows[TIME].to_pylist() == [kind.times[at] for at in codes], rows[TIME][1])
    if role == "label":
        expected = codes if kind.flags is not None else None
        return _is(expected is not None and np.array_equal(rows[LABEL], expected), rows[LABEL][:3])
    if role == "weight":
        if kind.numbers is None:
            return "WRONG", f"no numbers, and read as {rows[WEIGHT][1]}"
        expected = np.array(kind.numbers)[codes]
        return _is(np.array_equal(rows[WEIGHT], expected[expected > 0]), rows[WEIGHT][:3])
    return _is(rows[LABEL].to_pylist() == [at % 4 // 3 for at in range(COUNT)], "other rows")


def _is(is_right: object, told: object) -> tuple[str, str]:
    return ("right", "") if is_right else ("WRONG", str(told))


def _alike(found: np.ndarray, codes: np.ndarray) -> bool:
    """Whether values are equal exactly where codes are equal."""
    pairs = set(zip(found.tolist(), codes.tolist(), strict=True))
    return len(pairs) == len({value for value, _ in pairs}) == len({code for _, code in pairs})


def _write(folder: Path, name: str, table: pa.Table) -> bool:
    """Write a day; return False if the format does not support the type."""
    folder.mkdir(parents=True)
    path = folder / f"part.{name}"
    writers: dict[str, Callable[[], None]] = {
        "parquet": lambda: pq.write_table(table, path),
        "orc": lambda: orc.write_table(table, path),
        "avro": lambda: _write_avro(path, table),
        "jsonl": lambda: _write_json(path, table),
        "csv": lambda: pcsv.write_csv(table, path),
        "tsv.gz": lambda: _write_tsv(path, table),
    }
    try:
        writers[name]()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError, ValueError,
            KeyError, OverflowError, NotImplementedError):  # fmt: skip
        return False
    return True


def _write_tsv(path: Path, table: pa.Table) -> None:
    sink = io.BytesIO()
    pcsv.write_csv(table, sink, pcsv.WriteOptions(delimiter="\t"))
    path.write_bytes(gzip.compress(sink.getvalue()))


def _write_json(path: Path, table: pa.Table) -> None:
    def spelled(value: object) -> object:
        if isinstance(value, (datetime, date, time)):
            return value.isoformat()
        if isinstance(value, Decimal):
            return float(value)
        if isinstance(value, uuid.UUID):
            return str(value)
        if isinstance(value, bytes):
            return value.decode()
        raise TypeError

    rows = table.to_pylist()
    lines = [{name: value for name, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row, default=spelled) + "\n" for row in lines))


AVRO: list[tuple[Callable[[pa.DataType], bool], Any]] = [
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_integer, "long"),
    (pa.types.is_floating, "double"),
    (pa.types.is_decimal, {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}),
    (pa.types.is_string, "string"),
    (pa.types.is_large_string, "string"),
    (pa.types.is_binary, "bytes"),
    (pa.types.is_date32, {"type": "int", "logicalType": "date"}),
    (pa.types.is_timestamp, {"type": "long", "logicalType": "timestamp-micros"}),
    (pa.types.is_null, "null"),
]


def _avro_type(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return {"type": "array", "items": _avro_type(kind.value_type)}
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.uuid":
        return {"type": "string", "logicalType": "uuid"}
    return next(spelled for test, spelled in AVRO if test(kind))


def _write_avro(path: Path, table: pa.Table) -> None:
    try:
        types = {field.name: _avro_type(field.type) for field in table.schema}
    except StopIteration as error:
        raise NotImplementedError from error
    fields = [
        {"name": name, "type": kind if kind == "null" else ["null", kind]}
        for name, kind in types.items()
    ]
    schema = {"type": "record", "name": "Row", "fields": fields}
    with open(path, "wb") as stream:
        fastavro.writer(stream, schema, table.to_pylist())


def table_of(found: list[Cell]) -> str:
    """Return the matrix as Markdown: a column per role; types with equal outcomes share a row."""
    by: dict[tuple[str, str], dict[str, str]] = {}
    for cell in found:
        by.setdefault((cell.kind, cell.role), {})[cell.format] = cell.outcome
    roles = [role for role in ROLES if any(cell.role == role for cell in found)]
    rows: dict[tuple[str, ...], list[str]] = {}
    for kind in dict.fromkeys(cell.kind for cell in found):
        rows.setdefault(tuple(_shown(by[kind, role]) for role in roles), []).append(kind)
    lines = ["| type | " + " | ".join(roles) + " |", "| --- |" + " --- |" * len(roles)]
    lines += [
        f"| {', '.join(names)} | " + " | ".join(texts) + " |" for texts, names in rows.items()
    ]
    return "\n".join(lines)


def _shown(by_format: dict[str, str]) -> str:
    outcomes: dict[str, list[str]] = {}
    for name, outcome in by_format.items():
        if outcome != "-":
            outcomes.setdefault(outcome, []).append(name)
    if len(outcomes) < 2:
        return next(iter(outcomes), "-")
    return "; ".join(f"{outcome} ({', '.join(names)})" for outcome, names in outcomes.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--verbose", action="store_true", help="print what lines say")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = list(cells(Path(folder), tuple(options.formats)))
    print(table_of(results))
    counts = {outcome: sum(cell.outcome == outcome for cell in results)
              for outcome in ("right", "line", "gate", "-", "WRONG")}  # fmt: skip
    print("\n" + ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items()))
    for cell in results:
        if cell.outcome == "WRONG" or (options.verbose and cell.outcome == "line"):
            print(f"{cell.outcome} {cell.format} · {cell.kind} · {cell.role}: {cell.told[:300]}")
    sys.exit(1 if counts["WRONG"] else 0)


if __name__ == "__main__":
    main()
