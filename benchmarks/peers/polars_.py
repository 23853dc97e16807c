"""Run the job with Polars alone, lazily: one query analyzes, one transforms and writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from job import MIN_COUNT, NUMBERS, OWN, STANDARD, TEXTS, THREADS, TOP_K, main

os.environ["POLARS_MAX_THREADS"] = str(THREADS)
import polars as pl


def analyze(files: list[str], work: Path) -> dict[str, float]:
    rows = pl.scan_parquet(files, hive_partitioning=False)
    figures = []
    for name in NUMBERS:
        value = pl.col(name).cast(pl.Float64).log1p()
        if name in STANDARD:
            figures += [value.mean().alias(f"{name} a"), value.std(ddof=0).alias(f"{name} b")]
        else:
            figures += [
                value.quantile(share).alias(f"{name} {label}")
                for label, share in (("a", 0.5), ("low", 0.25), ("high", 0.75))
            ]
    counts = [
        rows.filter(pl.col(name).is_not_null() & (pl.col(name) != ""))
        .group_by(name)
        .len()
        .filter(pl.col("len") >= MIN_COUNT)
        .sort(["len", name], descending=[True, False])
        .head(TOP_K)
        .select(pl.col(name).alias("token"))
        for name in TEXTS
    ]
    numbers, *vocabularies = pl.collect_all([rows.select(figures), *counts])
    figure_values = numbers.row(0, named=True)
    learned = {
        name: [
            figure_values[f"{name} a"],
            figure_values[f"{name} b"]
            if name in STANDARD
            else figure_values[f"{name} high"] - figure_values[f"{name} low"],
        ]
        for name in NUMBERS
    }
    (work / "numbers.json").write_text(json.dumps(learned))
    for name, tokens in zip(TEXTS, vocabularies, strict=True):
        tokens.write_parquet(work / f"{name}.parquet")
    return {
        "tokens": sum(map(len, vocabularies)),
        **{f"center {name}": learned[name][0] for name in NUMBERS},
    }


def transform(files: list[str], work: Path) -> dict[str, float]:
    learned = json.loads((work / "numbers.json").read_text())
    columns = [pl.col(name) for name in OWN]
    for name in NUMBERS:
        center, spread = learned[name]
        value = (pl.col(name).cast(pl.Float64).log1p() - center) / spread
        columns.append(value.fill_null(0.0).cast(pl.Float32).alias(name))
    rows = pl.scan_parquet(files, hive_partitioning=False)
    for name in TEXTS:
        numbered = pl.read_parquet(work / f"{name}.parquet").with_row_index("id", offset=2)
        numbered = numbered.rename({"token": name, "id": f"{name} id"})
        rows = rows.join(numbered.lazy(), on=name, how="left", maintain_order="left")
        missing = pl.col(name).is_null() | (pl.col(name) == "")
        columns.append(
            pl.when(missing)
            .then(0)
            .otherwise(pl.col(f"{name} id").fill_null(1))
            .cast(pl.Int32)
            .alias(name)
        )
    rows.select(columns).sink_parquet(work / "rows.parquet", compression="zstd")
    return {"rows": pl.scan_parquet(work / "rows.parquet").select(pl.len()).collect().item()}


if __name__ == "__main__":
    main(analyze, transform)
