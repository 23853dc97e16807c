"""Score Parquet files with one bundle: what the scorer would answer, for whole days of rows."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.errors import ConfigError, DataError, MissingDataError
from nightbid.serving.bundle import Bundle, read_columns
from nightbid.serving.lookup import BATCH

SCORE = "probability"


def score_files(
    bundle_folder: Path,
    rows: Path,
    to: Path,
    *,
    keep: Sequence[str] = (),
    described: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score every row of a Parquet file, or of all Parquet files below a folder.

    Args:
        bundle_folder: An exported bundle.
        rows: The file or folder.
        to: A new folder. Its files have the paths of those read, and the columns `keep` and
            `probability`, row for row. It appears when all are written.
        keep: Columns to copy; none: all of them.
        described: What to record of the model in `scores.json`.

    Returns:
        What `scores.json` holds: model, rows, files, seconds, rows per second, mean probability.

    Raises:
        ConfigError: `to` exists.
        MissingDataError: There is no Parquet file, or a column is absent.
        DataError: A column has another type than in the logs.
    """
    if to.exists():
        raise ConfigError("the folder exists", where=str(to), hint="give a new folder with --to")
    files = [rows] if rows.is_file() else sorted(rows.rglob("*.parquet"))
    if not files:
        raise MissingDataError(
            "no Parquet file", where=str(rows), hint="give a file, or a folder of Parquet files"
        )
    columns, bundle = read_columns(bundle_folder), Bundle.load(bundle_folder)
    beside = to.with_name(f".tmp-{to.name}-{uuid.uuid4().hex[:8]}")
    begun = time.perf_counter()
    count, total = 0, 0.0
    try:
        for file in files:
            name = Path(file.name) if rows.is_file() else file.relative_to(rows)
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            found, summed = _score_file(bundle, columns, file, beside / name, keep)
            count, total = count + found, total + summed
        seconds = time.perf_counter() - begun
        summary = {
            "model": described or {},
            "rows": count,
            "files": len(files),
            "seconds": round(seconds, 3),
            "rows_per_second": round(count / seconds, 1),
            "mean_probability": total / count if count else None,
        }
        (beside / "scores.json").write_text(json.dumps(summary, indent=1))
        beside.rename(to)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return summary


def _score_file(
    bundle: Bundle, columns: pa.Schema, file: Path, to: Path, keep: Sequence[str]
) -> tuple[int, float]:
    count, total = 0, 0.0
    with pq.ParquetFile(file) as source:
        schema = source.schema_arrow
        _check(schema, columns, keep, file)
        kept = list(keep) or [name for name in schema.names if name != SCORE]
        written = pa.schema([*(schema.field(name) for name in kept), (SCORE, pa.float64())])
        read = list(dict.fromkeys([*columns.names, *kept]))
        with pq.ParquetWriter(to, written, compression="zstd") as sink:
            for batch in source.iter_batches(BATCH, columns=read):
                rows = pa.Table.from_batches([batch])
                raw = pa.table({f.name: _as_logged(rows[f.name], f.type) for f in columns})
                scores = bundle.score(raw)
                sink.write_table(rows.select(kept).append_column(SCORE, pa.array(scores)))
                count, total = count + len(scores), total + float(scores.sum())
    return count, total


def _check(schema: pa.Schema, columns: pa.Schema, keep: Sequence[str], file: Path) -> None:
    missing = [name for name in (*columns.names, *keep) if name not in schema.names]
    if missing:
        raise MissingDataError(
            f"column {missing[0]!r} is missing",
            where=str(file),
            hint=f"the rows need {', '.join(columns.names)}",
        )
    for field in columns:
        kind = schema.field(field.name).type
        if _plain(kind) != _plain(field.type):
            raise DataError(
                f"column {field.name!r} is {kind}, in the logs it was {field.type}",
                where=str(file),
                hint="write it as the logs hold it",
            )


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, however they are laid out."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) else kind


def _as_logged(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(_plain(kind)).cast(kind)
