"""Rows are compared with themselves, however sampling and featurization split a day into files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
from nightbid.schema import KEY
from nightbid.serving.skew import paired_rows


def write(folder: Path, day: int, part: str, first: int, rows: int) -> None:
    path = folder / "split=train" / f"dt=2026-01-0{day}" / f"part-{part}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({KEY: range(first, first + rows), "x": [1.0] * rows}), path)


def test_rows_are_paired_across_files_of_different_sizes(tmp_path: Path) -> None:
    sampled, featurized = tmp_path / "sampled", tmp_path / "featurized"
    write(sampled, 1, "00000", 0, 50)
    write(sampled, 2, "00000", 100, 50)
    write(featurized, 1, "00000-00000", 0, 50)
    for group, (first, rows) in enumerate([(100, 8), (108, 20), (128, 22)]):
        write(featurized, 2, f"00000-{group:05d}", first, rows)
    raw, rows = paired_rows(sampled, featurized, SimpleNamespace(columns=lambda: ["x"]), 20)
    assert raw[KEY].to_pylist() == rows[KEY].to_pylist() == list(range(100, 120))
