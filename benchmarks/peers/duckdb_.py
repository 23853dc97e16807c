"""Run the job with DuckDB alone."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
from job import MIN_COUNT, NUMBERS, OWN, STANDARD, TEXTS, THREADS, TOP_K, main


def _open(work: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(work / "learned.duckdb"))
    connection.execute(f"SET threads = {THREADS}")
    # Writing rows in any order is faster, and each row carries its key.
    connection.execute("SET preserve_insertion_order = false")
    return connection


def _source(files: list[str]) -> str:
    return f"read_parquet({files!r}, hive_partitioning = false)"


def analyze(files: list[str], work: Path) -> dict[str, float]:
    if (work / "learned.duckdb").exists():
        os.remove(work / "learned.duckdb")
    with _open(work) as connection:
        figures = []
        for name in NUMBERS:
            value = f"ln(1 + {name})"
            if name in STANDARD:
                figures += [f"avg({value}) {name}_a", f"stddev_pop({value}) {name}_b"]
            else:
                low, middle, high = (
                    f"approx_quantile({value}, {share})" for share in (0.25, 0.5, 0.75)
                )
                figures += [f"{middle} {name}_a", f"{high} - {low} {name}_b"]
        source = _source(files)
        connection.execute(f"CREATE TABLE numbers AS SELECT {', '.join(figures)} FROM {source}")
        for name in TEXTS:
            connection.execute(
                f"CREATE TABLE {name} AS SELECT token, row_number() OVER"
                f" (ORDER BY seen DESC, token) + 1 AS id FROM (SELECT {name} token, count(*) seen"
                f" FROM {source} WHERE {name} IS NOT NULL AND {name} <> '' GROUP BY {name}"
                f" HAVING count(*) >= {MIN_COUNT} ORDER BY seen DESC, token LIMIT {TOP_K})"
            )
        centers = connection.execute(
            f"SELECT {', '.join(f'{name}_a' for name in NUMBERS)} FROM numbers"
        ).fetchone()
        tokens = sum(
            connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TEXTS
        )
    return {
        "tokens": tokens,
        **{f"center {name}": center for name, center in zip(NUMBERS, centers, strict=True)},
    }


def transform(files: list[str], work: Path) -> dict[str, float]:
    columns = [f"r.{name}" for name in OWN]
    columns += [
        f"coalesce((ln(1 + r.{name}) - {name}_a) / {name}_b, 0)::FLOAT {name}" for name in NUMBERS
    ]
    columns += [
        f"(CASE WHEN r.{name} IS NULL OR r.{name} = '' THEN 0"
        f" ELSE coalesce({name}.id, 1) END)::INTEGER {name}"
        for name in TEXTS
    ]
    joins = " ".join(f"LEFT JOIN {name} ON {name}.token = r.{name}" for name in TEXTS)
    target = work / "rows.parquet"
    with _open(work) as connection:
        connection.execute(
            f"COPY (SELECT {', '.join(columns)} FROM {_source(files)} r CROSS JOIN numbers {joins})"
            f" TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
        )
        count = connection.execute(f"SELECT count(*) FROM read_parquet('{target}')").fetchone()
    return {"rows": count[0]}


if __name__ == "__main__":
    main(analyze, transform)
