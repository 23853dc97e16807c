"""Cost of rates, counts and recent items of millions of keys: memory, load time, lookups.

    python benchmarks/history.py                       # 10 million (key, day) entries
    python benchmarks/history.py --entries 20 --events 20 --processes 2

The script merges the statistics of 14 days into a folder of fitted features with a `target_rate`, a
`count` and a `recent` over users. Several processes load it at the same time, transform the same
rows in batches and report their memory: RSS counts shared pages in every process, PSS divides them
among the processes, and the private and anonymous sizes belong to one process only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

MILLION = 1_000_000
DAYS = range(20_454, 20_468)
BATCH = 65_536
DAY_US = 86_400_000_000


FEATURES = {
    "user": {"transform": "vocabulary", "column": "user_id", "top_k": 1000},
    "rate": {"transform": "target_rate", "columns": ["user_id"]},
    "rows": {"transform": "count", "columns": ["user_id"]},
    "last": {
        "transform": "recent", "column": "ad_id", "by": ["user_id"], "length": 10,
        "vocabulary": "ad_id",
    },
    "ad_id": {"transform": "vocabulary", "top_k": 10_000, "min_count": 1},
}  # fmt: skip


def days_written(folder: Path, entries: int, events: int) -> None:
    """Write the statistics of each day, as a night does."""
    from nightbid.features import key_statistics as learned
    from nightbid.features.statistics_files import save
    from nightbid.schema import LABEL, TIME, WEIGHT

    draw = np.random.default_rng(7)
    size, event_count = entries // len(DAYS), events // len(DAYS)
    for day in DAYS:
        users = draw.choice(max(entries // 3, 1), size, replace=False)
        time_ = day * DAY_US + draw.integers(0, DAY_US, size)
        rows = pa.table(
            {
                LABEL: (draw.random(size) < 0.05).astype(np.float32),
                WEIGHT: np.ones(size, np.float32),
                TIME: pa.array(time_).cast(pa.timestamp("us", "UTC")),
            }
        )
        keys = joint([pa.array(np.char.add("u", users.astype(str)))])
        save(learned.DayCounts.of(keys, rows), folder, f"counts-{day}")
        ads = pa.array(np.char.add("a", draw.integers(0, 5_000, event_count).astype(str)))
        codes = ads.dictionary_encode()
        items = (np.asarray(codes.indices, np.int32), codes.dictionary)
        recent_events = learned.KeyEvents.of(
            keys[:event_count], items, rows.slice(0, event_count), positive=False
        )
        save(recent_events, folder, f"events-{day}")


def written(days: Path, folder: Path) -> dict[str, float]:
    """Merge the days and save the features; return CPU seconds and peak memory."""
    from nightbid.config.pipeline import PipelineSpec
    from nightbid.features.fitted import Definition, FittedFeatures
    from nightbid.features.statistics import TokenCounts
    from nightbid.features.statistics_files import load_merged

    spec = PipelineSpec.model_validate(
        {"pipeline": "bench", "columns": {"time": "time"}, "features": FEATURES}
    )
    before, started = peak(), time.process_time()
    tokens = pa.array([f"a{number}" for number in range(5_000)])
    vocabulary = TokenCounts.of(np.arange(5_000, dtype=np.int32), tokens)
    counts = load_merged(sorted(days.glob("counts-*")))
    items = load_merged(sorted(days.glob("events-*")))
    statistics = {"user": vocabulary, "rate": counts, "rows": counts, "last": items,
                  "ad_id": vocabulary}  # fmt: skip
    FittedFeatures.fit(Definition.of(spec), statistics).save(folder)
    return {"cpu": time.process_time() - started, "peak_mb": peak(), "before_mb": before}


def joint(columns: list[pa.Array]) -> Any:
    """Return the keys that features compute from columns."""
    from nightbid.column_parsing import encode, joint_hashes

    return joint_hashes([encode(column) for column in columns])


def looked_up(folder: Path, users: int, rows: int, hot: float, barrier: Any, queue: Any) -> None:
    """Load the features, transform rows and report time and memory."""
    import hashlib

    from nightbid.features.fitted import FittedFeatures

    before, cpu = memory(), time.process_time()
    fitted = FittedFeatures.load(folder)
    draw = np.random.default_rng(3)

    def batch(size: int) -> pa.Table:
        drawn_users = draw.integers(0, int(users * hot), size)
        return pa.table(
            {
                "user_id": pa.array(np.char.add("u", drawn_users.astype(str))),
                "ad_id": pa.array(np.char.add("a", draw.integers(0, 5_000, size).astype(str))),
                "time": pa.array(
                    (DAYS[-1] + 1) * DAY_US + draw.integers(0, DAY_US, size)
                ).cast(pa.timestamp("us", "UTC")),
            }
        )  # fmt: skip

    fitted.transform(batch(1))
    load = time.process_time() - cpu
    batches = [batch(BATCH) for _ in range(max(rows // BATCH, 1))]
    digest = hashlib.sha256()
    cpu = time.process_time()
    tables = [fitted.transform(rows_drawn) for rows_drawn in batches]
    seconds = time.process_time() - cpu
    for table in tables:
        for column in table.columns:
            for buffer in column.combine_chunks().buffers():
                digest.update(buffer or b"")
            if pa.types.is_fixed_size_list(column.type):
                digest.update(np.ascontiguousarray(column.combine_chunks().flatten()))
    del tables
    barrier.wait()
    after = memory()
    barrier.wait()
    queue.put(
        {
            "load_cpu": round(load, 3),
            "rows_per_cpu_second": round(len(batches) * BATCH / seconds),
            **{name: round(value - before[name], 1) for name, value in after.items()},
            "digest": digest.hexdigest()[:16],
        }
    )


def memory() -> dict[str, float]:
    """Return RSS, PSS and the private memory of this process, in MB."""
    sizes = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in {"Rss", "Pss", "Private_Dirty", "Anonymous"}:
            sizes[name.lower()] = int(value.split()[0]) / 1024
    return sizes


def peak() -> float:
    """Return the peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the processes and print their reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=float, default=10, help="millions of (key, day)")
    parser.add_argument("--events", type=float, default=5, help="millions of recent items")
    parser.add_argument("--rows", type=float, default=1, help="millions, looked up by each")
    parser.add_argument("--hot", type=float, default=1.0, help="share of the users that appear")
    parser.add_argument("--processes", type=int, default=2, help="that load it at once")
    parser.add_argument("--folder", type=Path, help="kept; used again if it is there")
    options = parser.parse_args()
    entries = int(options.entries * MILLION)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)) / "fitted"
        spawn = multiprocessing.get_context("spawn")
        if not folder.exists():
            days = Path(scratch) / "days"
            with spawn.Pool(1, maxtasksperchild=1) as pool:
                pool.apply(days_written, (days, entries, int(options.events * MILLION)))
                cost = pool.apply(written, (days, folder))
            files = {path.stat().st_ino: path for path in folder.rglob("*") if path.is_file()}
            size = sum(path.stat().st_size for path in files.values())
            print("written", json.dumps({**cost, "file_mb": size / 1e6}), file=sys.stderr)
        queue, barrier = spawn.Queue(), spawn.Barrier(options.processes)
        workers = [
            spawn.Process(
                target=looked_up,
                args=(
                    folder,
                    entries // 3,
                    int(options.rows * MILLION),
                    options.hot,
                    barrier,
                    queue,
                ),
            )
            for _ in range(options.processes)
        ]
        for worker in workers:
            worker.start()
        for _ in workers:
            print(json.dumps(queue.get()))
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main()
