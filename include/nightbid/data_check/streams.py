"""Detects folders with separate streams of impressions, clicks and conversions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter

from nightbid.column_parsing import encode, hashes
from nightbid.config.event_source import EventStream
from nightbid.config.folder_source import FolderKind
from nightbid.data.event_kinds import EventKinds
from nightbid.data.folder import FolderLogs
from nightbid.data_check.columns import ColumnSummary, clock_of, day_numbers, summarize
from nightbid.data_check.names import has_meaning, plain, rank_of
from nightbid.data_check.rows import first_rows
from nightbid.errors import MissingDataError

NAMES = {
    "impressions": r"(.*_)?(impressions?|imps?|shows?|displays?|served|views?)",
    "clicks": r"(.*_)?(clicks?|clks?)",
    "conversions": r"(.*_)?(conversions?|convs?|installs?|purchases?|orders?|postbacks?)",
}
"""Stream → pattern of its folder's name, or of the kind of event in a folder of all streams."""
EVENT_IDS = {
    "clicks": r"(ad_?)?(event|click|clk)_?(id|uuid|guid|key)|uuid|guid|id",
    "conversions": r"(event|conversion|conv|order|transaction|txn|purchase|install|postback)"
                   r"(_?(id|uuid|guid|key|number|no))|uuid|guid|id",
}  # fmt: skip
"""Stream → pattern of the name of a column that identifies its events themselves."""
EVENT_KEY = "event_id"
"""Name of that column in a pipeline if the streams name it differently."""
LEAST_SHARED = 0.05
"""Minimum share of a stream's events whose id is among the sampled impressions."""
LEAST_UNIQUE = 0.5
"""Minimum number of distinct values per row for a column to identify impressions."""
MOST_KINDS = 20
"""Maximum number of kinds of events in one folder."""
SURELY_SHARED = 0.5
"""As `LEAST_SHARED`, for one folder: its rows may also be impressions with their outcome."""
SURELY_UNIQUE = 0.9
"""As `LEAST_UNIQUE`, for one folder, and for a column that identifies events."""


def stream_folders(folder: str) -> dict[str, str]:
    """Find the folders of the streams below a local folder.

    Returns:
        Stream → its folder; empty unless impressions and clicks are there, once each.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        return {}
    below = sorted(path for path in root.iterdir() if path.is_dir())
    folders: dict[str, str] = {}
    for stream, pattern in NAMES.items():
        matches = [path for path in below if re.fullmatch(pattern, plain(path.name))]
        if len(matches) == 1:
            folders[stream] = str(matches[0].resolve())
        elif matches:
            return {}
    return folders if {"impressions", "clicks"} <= folders.keys() else {}


def mixed_streams(
    block: dict[str, Any], columns: Sequence[ColumnSummary]
) -> dict[str, dict[str, Any]]:
    """Find the streams in one folder whose rows are impressions, clicks and conversions.

    A column names the kind of event, and clicks repeat the id of their impression.

    Args:
        block: `source` block of the folder.
        columns: Summaries of the sample's columns.

    Returns:
        Stream → block with `only`; empty unless impressions and clicks are there.
    """
    if block["kind"] not in get_args(FolderKind) or "layout" in block:
        return {}
    for column in columns:
        if column.kind != "text" or not 2 <= column.distinct <= MOST_KINDS:
            continue
        codes, tokens = encode(column.values)
        kinds = {
            stream: [token for token in tokens.to_pylist() if re.fullmatch(pattern, plain(token))]
            for stream, pattern in NAMES.items()
        }
        if not (kinds["impressions"] and kinds["clicks"]):
            continue
        shown, clicked = (
            np.isin(codes, [tokens.index(kind).as_py() for kind in kinds[stream]])
            for stream in ("impressions", "clicks")
        )
        if any(_is_shared_id(other, shown, clicked) for other in columns if other is not column):
            return {
                stream: {**block, "only": {column.name: names[0] if len(names) == 1 else names}}
                for stream, names in kinds.items()
                if names
            }
    return {}


def _is_shared_id(
    column: ColumnSummary, shown: npt.NDArray[np.bool_], clicked: npt.NDArray[np.bool_]
) -> bool:
    """Return whether a column identifies impressions, and clicks refer to them by it."""
    if column.kind not in ("text", "integer"):
        return False
    values = hashes(column.values)
    ids = np.unique(values[shown])
    return (
        len(ids) >= SURELY_UNIQUE * shown.sum()
        and float(np.isin(values[clicked], ids).mean()) >= SURELY_SHARED
    )


def events_block(blocks: Mapping[str, dict[str, Any]], cache: Path) -> dict[str, Any]:
    """Describe streams as a `source` block of `kind: events`.

    The impression id is the column whose values the streams share, preferably under the same name.

    Args:
        blocks: Stream → `source` block of its folder.
        cache: Folder for column types detected in text files.

    Raises:
        MissingDataError: The streams have no day in common, or one has no column with the
            impression id or the time of its events.
    """
    folders = {stream: block["folder"] for stream, block in blocks.items()}
    tables = _newest_day(blocks, cache)
    summaries = {stream: summarize(rows) for stream, (_, rows) in tables.items()}
    ids = {
        column.name: hashes(column.values)
        for column in summaries["impressions"]
        if column.kind in ("text", "integer") and column.distinct_share >= LEAST_UNIQUE
    }
    days = {stream: day_numbers({day: len(rows)}) for stream, (day, rows) in tables.items()}
    time = _time(summaries["impressions"], days["impressions"], folders["impressions"])
    key, key_columns = _key(summaries, ids, folders)
    event_key, own_keys = _event_key(summaries, {"impressions": key, **key_columns})
    block: dict[str, Any] = {"kind": "events"}
    for stream, summary in summaries.items():
        renamed = {} if key_columns.get(stream, key) == key else {key_columns[stream]: key}
        if own_keys.get(stream, event_key) != event_key:
            renamed[own_keys[stream]] = event_key
        assigned = {key, *renamed}
        own = time if stream == "impressions" else ""
        own = own or _time([column for column in summary if column.name not in assigned],
                           days[stream], folders[stream], time)  # fmt: skip
        renamed |= {} if own == time else {own: time}
        for name in {column.name for column in summary} - renamed.keys():
            if name in renamed.values():  # another column has the name already
                renamed[name] = f"own_{name}"
        block[stream] = {**blocks[stream], **({"rename": renamed} if renamed else {})}
    block |= {"key": key, "time": time, **({"event_key": event_key} if event_key else {})}
    if value := _value(summaries.get("conversions", [])):
        block["value"] = value
    return block


def _newest_day(
    blocks: Mapping[str, dict[str, Any]], cache: Path
) -> dict[str, tuple[date, pa.Table]]:
    """First rows of the newest day that all streams have; of events, also of the day after."""
    streams = {
        name: TypeAdapter(EventStream).validate_python(block) for name, block in blocks.items()
    }
    days_of = {
        name: set(FolderLogs(stream, (), cache).days() or ()) for name, stream in streams.items()
    }
    common = sorted(set.intersection(*days_of.values()))
    if not common:
        raise MissingDataError(
            "the streams have no day in common",
            where=", ".join(block["folder"] for block in blocks.values()),
            hint="name the day folders the same way, such as dt=2026-01-05",
        )
    tables = {}
    for name, stream in streams.items():
        days = [common[-1]]
        if name != "impressions" and common[-1] + timedelta(days=1) in days_of[name]:
            days.append(common[-1] + timedelta(days=1))
        # With all days, the types of text files would be detected in all files.
        folder_logs, kinds = FolderLogs(stream, days, cache), EventKinds(stream)
        parts = [
            kinds.select(rows)
            for day in days
            if (rows := first_rows(folder_logs.batches(day))[0]) is not None
        ]
        if not sum(map(len, parts)):
            raise MissingDataError(
                f"no row of {days[0]} could be read",
                where=blocks[name]["folder"],
                hint="check the files of that day",
            )
        tables[name] = (days[0], pa.concat_tables(parts, promote_options="permissive"))
    return tables


def _time(summary: list[ColumnSummary], day: Any, where: str, same: str = "") -> str:
    """Column with the time of an event: the one of the same name, else by its values and name."""
    times = [column for column in summary if column.kind == "time" and column.nulls <= 0.05]
    if same in [column.name for column in times]:
        return same
    if not times:
        raise MissingDataError(
            "no column is a time", where=where, hint="a stream needs the time of each event"
        )
    day = np.resize(day, times[0].rows)

    def score(column: ColumnSummary) -> tuple[float, float]:
        rank = rank_of(column.name, "time")
        return -round(clock_of(column, day).inside_zone, 1), 99 if rank is None else rank

    return min(times, key=score).name


def _key(
    summaries: Mapping[str, list[ColumnSummary]], ids: Mapping[str, Any], folders: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Column of the impression id, and the column of each other stream that refers to it."""
    best: dict[str, dict[str, tuple[float, str]]] = {name: {} for name in ids}
    for stream, summary in summaries.items():
        if stream == "impressions":
            continue
        for column in summary:
            if column.kind not in ("text", "integer") or not column.known:
                continue
            values = hashes(column.values)
            for name, impression_ids in ids.items():
                # Among equals, a column of the same name is preferred.
                share = float(np.isin(values, impression_ids).mean()) + 1e-6 * (column.name == name)
                if share > best[name].get(stream, (0.0, ""))[0]:
                    best[name][stream] = (share, column.name)
    streams = [stream for stream in summaries if stream != "impressions"]

    def worst(name: str) -> float:
        return min(best[name].get(stream, (0.0, ""))[0] for stream in streams)

    key = max(ids, key=worst, default="")
    if not key or worst(key) < LEAST_SHARED:
        columns = {
            stream: ", ".join(column.name for column in summaries[stream][:8])
            for stream in summaries
        }
        raise MissingDataError(
            "no column of the impressions occurs in every other stream",
            where=" and ".join(folders.values()),
            hint="clicks and conversions must name their impression; columns are "
            + "; ".join(f"{stream}: {names}" for stream, names in columns.items()),
        )
    return key, {stream: best[key][stream][1] for stream in streams}


def _event_key(
    summaries: Mapping[str, list[ColumnSummary]], keys: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Find the columns that identify clicks and conversions themselves.

    Args:
        summaries: Stream → summaries of its columns.
        keys: Stream → its column with the impression id.

    Returns:
        The column's name in the pipeline, empty if no stream has one; and stream → its column.
    """
    own: dict[str, str] = {}
    for stream, pattern in EVENT_IDS.items():
        names = [
            column.name
            for column in summaries.get(stream, ())
            if column.kind in ("text", "integer")
            and column.name != keys[stream]
            and re.fullmatch(pattern, plain(column.name))
            and column.nulls <= 1 - SURELY_UNIQUE
            and column.distinct_share >= SURELY_UNIQUE
        ]
        if len(names) == 1:
            own[stream] = names[0]
    if not own:
        return "", {}
    # A column of the same name in another stream may refer to these events instead.
    others = {
        column.name
        for stream, summary in summaries.items()
        for column in summary
        if stream != "impressions" and column.name != own.get(stream)
    }
    taken = {*others, keys["impressions"]}
    names = [*(set(own.values()) if len(set(own.values())) == 1 else ()), EVENT_KEY, "own_id"]
    free = [name for name in names if name not in taken]
    return (free[0], own) if free else ("", {})


def _value(summary: list[ColumnSummary]) -> str:
    """Column of the conversions' amounts; empty if there is none."""
    names = [
        column.name
        for column in summary
        if column.kind in ("integer", "number")
        and (has_meaning(column.name, "value") or has_meaning(column.name, "amount"))
    ]
    return names[0] if names else ""
