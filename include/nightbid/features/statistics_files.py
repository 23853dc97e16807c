"""Statistics as files, so that a day is learned from once.

One file per statistic, `<name>.json` or `<name>.parquet`. Equal statistics are equal bytes, however
the rows came together. Counts of tokens are parted by hash as spilled ones are: many days of a
large vocabulary merge part by part, in bounded memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.features.statistics import (
    DayCounts,
    Events,
    Moments,
    Quantiles,
    Statistic,
    TokenCounts,
    merge_many,
)
from nightbid.profile.bins import Bins
from nightbid.profile.exact import ExactSum

KIND = b"nightbid.statistic"
TOKENS_IN_MEMORY = 200_000
"""Counts of more tokens stay in their file until they are merged."""


def save(statistic: Statistic, folder: Path, name: str) -> Path:
    """Write a statistic; gives its file."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(statistic, Moments | Quantiles):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(_tree(statistic), sort_keys=True, separators=(",", ":")))
        return path
    path = folder / f"{name}.parquet"
    if isinstance(statistic, TokenCounts):
        groups = list(statistic.by_hash())
        _write(groups[0].schema, groups, path, "tokens")
    else:
        kind = "by_day" if isinstance(statistic, DayCounts) else "events"
        _write(statistic.table.schema, [statistic.table], path, kind)
    return path


def load(path: Path) -> Statistic:
    """Read what `save` wrote.

    Raises:
        OSError, ValueError, KeyError: it is something else.
    """
    if path.suffix == ".json":
        return _from_tree(json.loads(path.read_text()))
    with pq.ParquetFile(path) as file:
        kind = (file.schema_arrow.metadata or {})[KIND].decode()
        if kind == "tokens" and file.metadata.num_rows > TOKENS_IN_MEMORY:
            return TokenCounts((), (str(path),))
        table = file.read().replace_schema_metadata(None)
    if kind == "tokens":
        return TokenCounts((table,))
    return DayCounts(table) if kind == "by_day" else Events((table,))


def load_merged(paths: Sequence[Path]) -> Statistic:
    """Read the statistics of several days, of one class, and merge them."""
    return merge_many([load(path) for path in paths])


def _write(schema: pa.Schema, groups: Sequence[pa.Table], path: Path, kind: str) -> None:
    marked = schema.with_metadata({KIND: kind.encode()})
    with pq.ParquetWriter(path, marked, compression="zstd", use_dictionary=False) as writer:
        for each in groups:
            writer.write_table(each.replace_schema_metadata(marked.metadata), row_group_size=2**30)


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
