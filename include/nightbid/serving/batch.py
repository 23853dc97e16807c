"""Batch scoring: score Parquet files with one bundle, with the same results as the scorer."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.config.pipeline import Runner
from nightbid.data.day_names import walk
from nightbid.errors import ConfigError, CorruptDataError, DataError, MissingDataError
from nightbid.serving.bundle import Bundle, read_columns
from nightbid.serving.lookup import BATCH
from nightbid.shortages import remedy

NOT_ONE = {"probability": "not_probabilities", "value": "not_values"}
"""Kind of prediction → key of the number of invalid scores."""


def score_files(
    bundle_folder: Path,
    rows: Path,
    to: Path,
    *,
    keep: Sequence[str] = (),
    described: dict[str, Any] | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Score every row of a Parquet file, or of all Parquet files below a folder.

    Args:
        bundle_folder: Folder of an exported bundle.
        rows: Parquet file, or folder with Parquet files.
        to: New folder for the scores. Its files have the same relative paths as the files read, and
            contain the columns `keep` and `probability` (`value` for a model of values), row for
            row. The folder appears when all files are written.
        keep: Columns to copy; empty copies all.
        described: Description of the model for `scores.json`.
        runner: Beam runner; None scores one file after the other without Beam.

    Returns:
        The content of `scores.json`: model, rows, files, seconds, rows per second, mean probability
        or value, and the number of invalid scores.

    Raises:
        ConfigError: `to` exists, or `keep` names the column of the scores.
        MissingDataError: There is no Parquet file, or a column is missing.
        CorruptDataError: A file is not Parquet, or is cut off.
        DataError: A column has another type than in the logs.
    """
    if to.exists():
        raise ConfigError(
            "the folder already exists", where=str(to), hint="choose a new folder with --to"
        )
    files = (
        [rows]
        if rows.is_file()
        else sorted(path for path, _ in walk(rows) if path.suffix == ".parquet")
    )
    if not files:
        raise MissingDataError(
            "no Parquet file", where=str(rows), hint="pass a file, or a folder of Parquet files"
        )
    bundle, columns = _opened(str(bundle_folder))
    kind = bundle.card.output
    if kind in keep:
        raise ConfigError(
            f"--keep {kind}: the column of the scores has this name",
            where="score",
            hint="rename the column of the rows to keep it",
        )
    for file in files:
        with _readable(file):
            schema = pq.read_schema(file)
        _check(schema, columns, keep, file)
    temporary = to.with_name(f".tmp-{to.name}-{uuid.uuid4().hex[:8]}")
    start = time.perf_counter()
    parts = []
    for file in files:
        name = Path(file.name) if rows.is_file() else file.relative_to(rows)
        parts.append(BatchFile(str(file), str(temporary / name)))
    try:
        for part in parts:
            Path(part.to).parent.mkdir(parents=True, exist_ok=True)
        score = ScoreParts(str(bundle_folder), tuple(keep))
        if runner is None:
            for part in parts:
                score(part)
        else:
            _on_beam(runner, score, parts)
        totals = [_total(Path(part.to)) for part in parts]
        count = sum(counts["rows"] for counts in totals)
        total = math.fsum(counts["sum"] for counts in totals)
        seconds = time.perf_counter() - start
        summary = {
            "model": described or {},
            "rows": count,
            "files": len(files),
            "seconds": round(seconds, 3),
            "rows_per_second": round(count / seconds, 1),
            f"mean_{kind}": total / count if count else None,
            NOT_ONE[kind]: sum(counts["wrong"] for counts in totals),
        }
        (temporary / "scores.json").write_text(json.dumps(summary, indent=1))
        temporary.rename(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary


@dataclass(frozen=True)
class BatchFile:
    """A file of rows, and the file for its scores."""

    rows: str
    to: str


class ScoreParts:
    """Scores files with a bundle that each process loads once.

    Args:
        bundle: Folder of the exported bundle.
        keep: Columns to copy; empty copies all.
    """

    def __init__(self, bundle: str, keep: tuple[str, ...]) -> None:
        self._bundle, self._keep = bundle, keep

    def __call__(self, part: BatchFile) -> None:
        """Score a file, and write its totals next to the scores."""
        bundle, columns = _opened(self._bundle)
        count, total, wrong = 0, 0.0, 0
        name = bundle.card.output
        most = 1.0 if name == "probability" else np.finfo(np.float64).max
        to = Path(part.to)
        with pq.ParquetFile(part.rows) as source:
            schema = source.schema_arrow
            copied = list(self._keep) or [column for column in schema.names if column != name]
            written = pa.schema(
                [*(schema.field(column) for column in copied), (name, pa.float64())]
            )
            read = list(dict.fromkeys([*columns.names, *copied]))
            with pq.ParquetWriter(to, written, compression="zstd") as sink:
                for batch in _batches(source, read, Path(part.rows)):
                    rows = pa.Table.from_batches([batch])
                    raw = pa.table(
                        {
                            column.name: _as_logged(rows[column.name], column.type)
                            for column in columns
                        }
                    )
                    scores = bundle.score(raw)
                    sink.write_table(rows.select(copied).append_column(name, pa.array(scores)))
                    count, total = count + len(scores), total + float(scores.sum())
                    wrong += len(scores) - int(((scores >= 0) & (scores <= most)).sum())
        _beside(to).write_text(json.dumps({"rows": count, "sum": total, "wrong": wrong}))


def _batches(source: pq.ParquetFile, columns: list[str], file: Path) -> Iterator[pa.RecordBatch]:
    batches = source.iter_batches(BATCH, columns=columns)
    while True:
        with _readable(file):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn an error of Arrow about a file into one that names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise CorruptDataError(
            f"cannot be read as Parquet: {str(error).splitlines()[0]}",
            where=str(file),
            hint=remedy(error) or "write the file again; it may be cut off",
        ) from error


@functools.lru_cache(maxsize=1)
def _opened(folder: str) -> tuple[Bundle, pa.Schema]:
    return Bundle.load(Path(folder)), read_columns(Path(folder))


def _beside(to: Path) -> Path:
    return to.with_name(f".{to.name}.totals")


def _total(to: Path) -> dict[str, Any]:
    totals: dict[str, Any] = json.loads(_beside(to).read_text())
    _beside(to).unlink()
    return totals


def _on_beam(runner: Runner, score: ScoreParts, parts: list[BatchFile]) -> None:
    import apache_beam as beam

    from nightbid.featurize.runner import passes_on

    with passes_on(runner) as run:
        run(
            lambda pipeline: (
                pipeline
                | "Files" >> beam.Create(parts)
                | "Spread" >> beam.Reshuffle()
                | "Score" >> beam.Map(score)
            )
        )


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
                f"column {field.name!r} is {kind}, but in the logs it was {field.type}",
                where=str(file),
                hint="write the same type as in the logs",
            )


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, independent of their encoding."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) else kind


def _as_logged(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(_plain(kind)).cast(kind)
