"""What rates, counts and recent items of very many keys cost: memory, load time, lookups.

    python benchmarks/history.py                       # 10 million (key, day) entries
    python benchmarks/history.py --entries 20 --events 20 --processes 2

A folder of fitted features with a `target_rate`, a `count` and a `recent` over users is merged
from the statistics of 14 days. Processes of their own load it at once, transform the same rows
in batches, and say what they hold: RSS counts pages that processes share in each of them, PSS
divides them, and `own` is what is theirs alone.
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
    """Write what each day taught, as a night keeps it."""
    from nightbid.features import key_statistics as learned
    from nightbid.features.statistics_files import save
    from nightbid.schema import LABEL, TIME, WEIGHT

    draw = np.random.default_rng(7)
    size, some = entries // len(DAYS), events // len(DAYS)
    for day in DAYS:
        who = draw.choice(max(entries // 3, 1), size, replace=False)
        time_ = day * DAY_US + draw.integers(0, DAY_US, size)
        rows = pa.table(
            {
                LABEL: (draw.random(size) < 0.05).astype(np.float32),
                WEIGHT: np.ones(size, np.float32),
                TIME: pa.array(time_).cast(pa.timestamp("us", "UTC")),
            }
        )
        keys = joint([pa.array(np.char.add("u", who.astype(str)))])
        save(learned.DayCounts.of(keys, rows), folder, f"counts-{day}")
        ads = pa.array(np.char.add("a", draw.integers(0, 5_000, some).astype(str)))
        codes = ads.dictionary_encode()
        items = (np.asarray(codes.indices, np.int32), codes.dictionary)
        found = learned.Events.of(keys[:some], items, rows.slice(0, some), positive=False)
        save(found, folder, f"events-{day}")


def written(days: Path, folder: Path) -> dict[str, float]:
    """Merge the days and save the features; CPU seconds and peak memory."""
    from nightbid.config.pipeline import PipelineSpec
    from nightbid.features.fitted import Definition, FittedFeatures
    from nightbid.features.statistics import TokenCounts
    from nightbid.features.statistics_files import load_merged

    spec = PipelineSpec.model_validate(
        {"pipeline": "bench", "columns": {"time": "time"}, "features": FEATURES}
    )
    before, started = peak(), time.process_time()
    tokens = pa.array([f"a{each}" for each in range(5_000)])
    vocabulary = TokenCounts.of(np.arange(5_000, dtype=np.int32), tokens)
    counts = load_merged(sorted(days.glob("counts-*")))
    items = load_merged(sorted(days.glob("events-*")))
    statistics = {"user": vocabulary, "rate": counts, "rows": counts, "last": items,
                  "ad_id": vocabulary}  # fmt: skip
    FittedFeatures.fit(Definition.of(spec), statistics).save(folder)
    return {"cpu": time.process_time() - started, "peak_mb": peak(), "before_mb": before}


def joint(columns: list[pa.Array]) -> Any:
    """Keys, as features make them."""
    from nightbid.column_parsing import encode, joint_hashes

    return joint_hashes([encode(each) for each in columns])


def looked_up(folder: Path, users: int, rows: int, hot: float, barrier: Any, queue: Any) -> None:
    """Load, transform rows, and say what it took."""
    import hashlib

    from nightbid.features.fitted import FittedFeatures

    before, cpu = memory(), time.process_time()
    fitted = FittedFeatures.load(folder)
    draw = np.random.default_rng(3)

    def batch(size: int) -> pa.Table:
        who = draw.integers(0, int(users * hot), size)
        return pa.table(
            {
                "user_id": pa.array(np.char.add("u", who.astype(str))),
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
    made = [fitted.transform(each) for each in batches]
    seconds = time.process_time() - cpu
    for each in made:
        for column in each.columns:
            for buffer in column.combine_chunks().buffers():
                digest.update(buffer or b"")
            if pa.types.is_fixed_size_list(column.type):
                digest.update(np.ascontiguousarray(column.combine_chunks().flatten()))
    del made
    barrier.wait()
    found = memory()
    barrier.wait()
    queue.put(
        {
            "load_cpu": round(load, 3),
            "rows_per_cpu_second": round(len(batches) * BATCH / seconds),
            **{name: round(value - before[name], 1) for name, value in found.items()},
            "digest": digest.hexdigest()[:16],
        }
    )


def memory() -> dict[str, float]:
    """RSS, PSS and what is the process's own; MB."""
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in {"Rss", "Pss", "Private_Dirty", "Anonymous"}:
            found[name.lower()] = int(value.split()[0]) / 1024
    return found


def peak() -> float:
    """Largest memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=float, default=10, help="millions of (key, day)")
    parser.add_argument("--events", type=float, default=5, help="millions of recent items")
    parser.add_argument("--rows", type=float, default=1, help="millions, looked up by each")
    parser.add_argument("--hot", type=float, default=1.0, help="share of the users that appear")
    parser.add_argument("--processes", type=int, default=2, help="that load it at once")
    parser.add_argument("--folder", type=Path, help="kept; used again if it is there")
    asked = parser.parse_args()
    entries = int(asked.entries * MILLION)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (asked.folder or Path(scratch)) / "fitted"
        spawn = multiprocessing.get_context("spawn")
        if not folder.exists():
            days = Path(scratch) / "days"
            with spawn.Pool(1, maxtasksperchild=1) as pool:
                pool.apply(days_written, (days, entries, int(asked.events * MILLION)))
                made = pool.apply(written, (days, folder))
            files = {each.stat().st_ino: each for each in folder.rglob("*") if each.is_file()}
            size = sum(each.stat().st_size for each in files.values())
            print("written", json.dumps({**made, "file_mb": size / 1e6}), file=sys.stderr)
        queue, barrier = spawn.Queue(), spawn.Barrier(asked.processes)
        several = [
            spawn.Process(
                target=looked_up,
                args=(folder, entries // 3, int(asked.rows * MILLION), asked.hot, barrier, queue),
            )
            for _ in range(asked.processes)
        ]
        for each in several:
            each.start()
        for _ in several:
            print(json.dumps(queue.get()))
        for each in several:
            each.join()


if __name__ == "__main__":
    main()
