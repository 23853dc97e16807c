"""The limit: read the raw rows and write as much as the others do, without computing anything.

It writes the rows that `ours` made, so `ours` must run first, and reads them before the clock
starts.
"""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from job import NUMBERS, OWN, TEXTS, THREADS, main

OURS = Path(sys.argv[2]).parent / "ours" / "rows"
MADE = (
    [pq.read_table(path, partitioning=None) for path in sorted(OURS.rglob("*.parquet"))]
    if sys.argv[1] == "transform"
    else []
)


def _read(place: tuple[str, int], columns: list[str]) -> pa.Table:
    with pq.ParquetFile(place[0], read_dictionary=TEXTS, pre_buffer=False) as file:
        return file.read_row_group(place[1], columns=columns, use_threads=False)


def _places(files: list[str]) -> list[tuple[str, int]]:
    return [
        (path, group) for path in files for group in range(pq.read_metadata(path).num_row_groups)
    ]


def analyze(files: list[str], work: Path) -> dict[str, float]:
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda place: len(_read(place, [*NUMBERS, *TEXTS])), _places(files))
        return {"rows": sum(read)}


def transform(files: list[str], work: Path) -> dict[str, float]:
    shutil.rmtree(work)
    work.mkdir()

    def both(number: int) -> int:
        rows = len(_read(places[number], [*OWN, *NUMBERS, *TEXTS]))
        target = work / f"{number}.parquet"
        pq.write_table(MADE[number], target, compression="zstd", use_dictionary=False)
        return rows

    places = _places(files)
    with ThreadPoolExecutor(THREADS) as pool:
        return {"rows": sum(pool.map(both, range(len(places))))}


if __name__ == "__main__":
    main(analyze, transform)
