"""Saves statistics to files, so that each day is read only once.

There is one file per statistic, `<name>.json` or `<name>.parquet`. Equal statistics give equal
bytes, however rows were grouped. Token counts are partitioned by hash like spilled ones, and
history is sorted by the hash of the key: many days merge part by part, in bounded memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.features.key_ranges import write_by_range
from nightbid.features.key_statistics import DAY_COUNTS, EVENTS, DayCounts, KeyEvents
from nightbid.features.statistics import (
    Moments,
    Quantiles,
    Statistic,
    TokenCounts,
    merge_many,
)
from nightbid.profile.bins import Bins
from nightbid.profile.exact import ExactSum

KIND = b"nightbid.statistic"
CLASSES: dict[str, type[TokenCounts | DayCounts | KeyEvents]] = {
    "tokens": TokenCounts,
    "by_day": DayCounts,
    "events": KeyEvents,
}
IN_MEMORY = 200_000
"""Maximum entries (tokens, or keys and days) to load; larger files are read during merges."""


def save(statistic: Statistic, folder: Path, name: str) -> Path:
    """Save a statistic and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(statistic, Moments | Quantiles):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(_tree(statistic), sort_keys=True, separators=(",", ":")))
        return path
    path = folder / f"{name}.parquet"
    if isinstance(statistic, TokenCounts):
        groups = statistic.sorted_tables(IN_MEMORY)
        with _writer(path, groups[0].schema, "tokens") as (writer, marks):
            for table in groups:
                writer.write_table(table.replace_schema_metadata(marks), row_group_size=2**30)
        return path
    is_by_day = isinstance(statistic, DayCounts)
    kind, schema = ("by_day", DAY_COUNTS) if is_by_day else ("events", EVENTS)
    with _writer(path, schema, kind) as (writer, marks):
        write_by_range(statistic.by_range(), writer, marks)
    return path


def load(path: Path) -> Statistic:
    """Load a statistic that `save` wrote.

    Raises:
        OSError, ValueError, KeyError: The file holds something else.
    """
    if path.suffix == ".json":
        return _from_tree(json.loads(path.read_text()))
    with pq.ParquetFile(path) as file:
        kind = (file.schema_arrow.metadata or {})[KIND].decode()
        statistic_class = CLASSES[kind]
        if file.metadata.num_rows > IN_MEMORY:
            return statistic_class((), (str(path),))
        # For files this small, threads cost more than they gain.
        return statistic_class((file.read(use_threads=False).replace_schema_metadata(None),))


def load_merged(paths: Sequence[Path]) -> Statistic:
    """Load statistics of one class, one file per day, and merge them."""
    return merge_many([load(path) for path in paths])


@contextmanager
def _writer(
    path: Path, schema: pa.Schema, kind: str
) -> Iterator[tuple[pq.ParquetWriter, dict[bytes, bytes]]]:
    marks = {KIND: kind.encode()}
    with pq.ParquetWriter(
        path, schema.with_metadata(marks), compression="zstd", use_dictionary=False
    ) as writer:
        yield writer, marks


def _tree(statistic: Moments | Quantiles) -> dict[str, Any]:
    if isinstance(statistic, Moments):
        return {
            "kind": "moments",
            "rows": statistic.rows,
            "total": statistic.total.to_json(),
            "squares": statistic.squares.to_json(),
        }
    return {
        "kind": "quantiles",
        "bins": statistic.bins.to_json(),
        "values": None if statistic.values is None else statistic.values.to_json(),
        "minimum": statistic.minimum,
        "maximum": statistic.maximum,
    }


def _from_tree(tree: dict[str, Any]) -> Statistic:
    readers: dict[str, Callable[[], Statistic]] = {
        "moments": lambda: Moments(
            tree["rows"],
            ExactSum.from_json(tree["total"]),
            ExactSum.from_json(tree["squares"]),
        ),
        "quantiles": lambda: Quantiles(
            Bins.from_json(tree["bins"]),
            None if tree["values"] is None else Bins.from_json(tree["values"]),
            tree["minimum"],
            tree["maximum"],
        ),
    }
    return readers[tree["kind"]]()
