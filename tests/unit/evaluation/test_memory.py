"""How many users are evaluated in a given amount of memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.evaluation.memory import share_that_fits
from nightbid.machine import GB
from nightbid.schema import USER


def files_of(folder: Path, users: np.ndarray) -> list[Path]:
    paths = [folder / "part-0.parquet", folder / "part-1.parquet"]
    for path, part in zip(paths, np.array_split(users, 2), strict=True):
        pq.write_table(pa.table({USER: part}), path)
    return paths


@pytest.mark.parametrize(("rows", "users"), [(6_000, 6_000), (6_000, 40), (1_500_000, 150_000)])
def test_rows_of_many_users_need_more_memory(tmp_path: Path, rows: int, users: int) -> None:
    hashed = np.random.default_rng(7).integers(-(2**62), 2**62, users)
    files = files_of(tmp_path, hashed[np.arange(rows) % users])
    needed = rows * 400 + users * 500
    assert share_that_fits(files, 1.02 * needed / GB, 200) == (1.0, rows)
    assert share_that_fits(files, needed / 10 / GB, 200) == (pytest.approx(0.1, rel=0.02), rows)
    # With more replicates, fewer users fit.
    more = share_that_fits(files, needed / 10 / GB, 1000)[0]
    assert more == pytest.approx(needed / 10 / (rows * 400 + users * 1300), rel=0.02)


def test_no_row_fits_in_any_memory(tmp_path: Path) -> None:
    assert share_that_fits(files_of(tmp_path, np.empty(0, np.int64)), 1e-9, 200) == (1.0, 0)
