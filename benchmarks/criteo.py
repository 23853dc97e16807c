"""Write rows shaped like Criteo's display logs, in the format of sampling.

Each row has 13 numbers and 26 strings. Numbers are skewed and partly missing. Strings follow a Zipf
law over up to a million values and are 3 to 60 bytes long: tokens, words and addresses of
different lengths within a column.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 131_072
DAYS = 4
SIZES = [
    1460, 583, 1_000_000, 800_000, 305, 24, 12_517, 633, 3, 93_145, 5683, 1_000_000, 3194, 27,
    14_992, 900_000, 10, 5652, 2173, 4, 1_000_000, 18, 15, 286_181, 105, 142_572,
]  # fmt: skip


def _texts(column: int, size: int) -> pa.Array:
    """Return all values of a column."""
    draw = np.random.default_rng((17, column))
    digits = draw.integers(0, 2**63, size)
    if column % 3 == 0:
        return pa.array([f"{digit:016x}"[:8] + str(row) for row, digit in enumerate(digits)])
    if column % 3 == 1:
        words = ["red", "shoe", "sale", "summer", "deal", "a", "international", "of"]
        return pa.array(
            [" ".join(words[digit >> s & 7] for s in range(0, 3 * (digit % 4 + 1), 3)) + f" {row}"
             for row, digit in enumerate(digits.tolist())]
        )  # fmt: skip
    return pa.array(
        [f"https://{digit % 997}.example/{'p' * (digit % 9)}/{digit >> 20:x}?i={row}"
         for row, digit in enumerate(digits.tolist())]
    )  # fmt: skip


def write(folder: Path, rows: int) -> None:
    """Write `split=train/dt=*/part-00000.parquet`."""
    texts = {f"c{number}": (number, _texts(number, size)) for number, size in enumerate(SIZES)}
    for day in range(DAYS):
        path = folder / "split=train" / f"dt=2026-01-{day + 1:02d}" / "part-00000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer, left = None, rows // DAYS
        while left:
            table = _rows(min(left, GROUP), day, left, texts)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            left -= len(table)
        if writer:
            writer.close()


def _rows(count: int, day: int, left: int, texts: dict[str, tuple[int, pa.Array]]) -> pa.Table:
    draw = np.random.default_rng((18, day, left))
    columns: dict[str, pa.Array] = {}
    for number in range(13):
        value = draw.lognormal(number / 4, 1 + number / 12, count)
        missing = draw.random(count) < (0, 0.05, 0.2, 0.45)[number % 4]
        whole = number % 3 != 2
        columns[f"n{number}"] = pa.array(value.astype(np.int64) if whole else value, mask=missing)
    for name, (number, values) in texts.items():
        # A power law by inversion: rank = size^u, density 1 / rank.
        rank = (len(values) ** draw.random(count)).astype(np.int64) - 1
        missing = draw.random(count) < (0, 0, 0.03, 0.4)[number % 4]
        columns[name] = values.take(pa.array(rank, mask=missing))
    label = (draw.random(count) < 0.25).astype(np.float32)
    time = (20_454 + day) * 86_400_000_000 + np.sort(draw.integers(0, 86_400_000_000, count))
    return pa.table(
        columns
        | {
            "nb_key": pa.array(draw.integers(0, 2**63, count)),
            "nb_label": pa.array(label),
            "nb_weight": pa.array(np.ones(count, np.float32)),
            "nb_time": pa.array(time).cast(pa.timestamp("us", "UTC")),
            "nb_user": pa.array(draw.integers(0, 2**40, count)),
        }
    )
