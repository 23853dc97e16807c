"""Rebuilds a day's rows as logged from a day that was sampled for another label.

Pipelines for clicks and for conversions read the same logs. A day's output holds every row that was
read: kept rows in `rows.parquet`, and in `others.parquet`, with their positions, those that are set
aside, repeated or outside the label's condition. `as_read.json` holds the row counts of each batch.
Together they restore the batches of the logs, so sampling them gives the same bytes. This is done
for logs that are slow to read: text, Avro, and logs in a bucket or in BigQuery.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.column_parsing import hashes
from nightbid.config.event_source import EventsSource
from nightbid.config.folder_source import FolderSource
from nightbid.config.sources import SourceBlock
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.days import DayKey, days_folder
from nightbid.night.manifest import Manifest
from nightbid.sampling.plain import plain_table
from nightbid.sampling.row_files import ROWS, RowFile, RowWriter, numbered
from nightbid.schema import PLACE, REASON, RESERVED, TEXT, USER
from nightbid.storage.files import is_local
from nightbid.storage.workspace import Workspace, fetch, read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHERS, BATCHES = "others.parquet", "as_read.json"
MOST_OTHERS = 0.1
"""Maximum share of rows to store in `others.parquet`.

If a label's condition excludes most rows, storing them costs more than reading the logs again."""
LARGEST_BATCH = 1 << 20
"""Maximum rows of a batch; larger ones could not be told apart in the file's row groups."""


FAST = ("parquet", "orc", "delta", "iceberg")
"""Kinds of sources whose local files are read as fast as sampled rows."""


def is_slow(block: SourceBlock) -> bool:
    """Return whether logs take longer to read than rows that were sampled from them."""
    if isinstance(block, EventsSource):
        streams = (block.impressions, block.clicks, block.conversions)
        return any(is_slow(stream) for stream in streams if stream)
    return isinstance(block, FolderSource) and (block.kind not in FAST or "://" in block.folder)


class OthersWriter:
    """Stores the rows of a unit that are not in its `rows.parquet`, unless there are many.

    Args:
        folder: Folder of the unit.
        user: User column, by which rows of users to erase are found.
        is_wanted: Whether to store rows; if False, nothing is written.
    """

    def __init__(self, folder: Path, user: str, *, is_wanted: bool) -> None:
        self._folder, self._user = folder, user
        self._writer: RowWriter | None = RowWriter(folder / OTHERS) if is_wanted else None
        self._batches: list[tuple[int, int, bool]] = []
        self._read = self._others = 0

    def add(self, table: pa.Table, kept_places: npt.NDArray[np.int64]) -> None:
        """Store the rows of a batch that are not kept.

        Args:
            table: The batch as it was read.
            kept_places: Positions of the rows that are kept, int64.
        """
        if self._writer is None:
            return
        self._read += len(table)
        self._others += len(table) - len(kept_places)
        if len(table) >= LARGEST_BATCH or self._others > MOST_OTHERS * self._read + 1:
            self._give_up()
            return
        has_reasons = REASON in table.column_names
        self._batches.append((len(kept_places), len(table) - len(kept_places), has_reasons))
        if len(kept_places) == len(table):
            return
        places = np.setdiff1d(np.arange(len(table)), kept_places, assume_unique=True)
        rows = plain_table(table.take(pa.array(places)))
        for name in (REASON, TEXT):
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(len(rows), pa.string()))
        users = hashes(rows[self._user]).view(np.int64)
        self._writer.write(
            rows.append_column(PLACE, pa.array(places)).append_column(USER, pa.array(users))
        )

    def close(self, of: int) -> None:
        """Finish the files; `of` is the number of units of the day."""
        if self._writer is not None:
            self._writer.close()
            text = json.dumps({"of": of, "batches": self._batches})
            (self._folder / BATCHES).write_text(text)

    def _give_up(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._writer = None
        leave_out(self._folder)


def leave_out(folder: Path) -> None:
    """Delete the stored other rows of a unit, so that it can only be read from the logs."""
    for name in (OTHERS, BATCHES):
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class SampledRows:
    """A unit that is read from a sampled day; see `nightbid.data.source.UnitOfLogs`."""

    folder: str
    number: int
    of: int
    joined: Mapping[str, float]
    """Statistics of the event join when the logs were read; only in the day's last unit."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches as logged, in types that `plain_table` does not change.

        Raises:
            WorkspaceError: The day was deleted in the meantime.
        """
        folder = Path(self.folder)
        try:
            with RowFile(folder / numbered(ROWS, self.number, self.of)) as rows:
                yield from self._batches(folder, rows)
        except OSError as error:
            raise WorkspaceError(
                f"the sampled day is gone ({error.strerror or error})",
                where=self.folder,
                hint="it was removed while it was read: rerun the stage",
            ) from error

    def figures(self) -> dict[str, float]:
        """Statistics of the event join."""
        return dict(self.joined)

    def _batches(self, folder: Path, rows: RowFile) -> Iterator[pa.RecordBatch]:
        kept_rows = (_logged(table) for table in rows.tables() if len(table))
        nothing = _logged(rows.empty())
        path = folder / numbered(OTHERS, self.number, self.of)
        text = (folder / numbered(BATCHES, self.number, self.of)).read_text()
        others_rows = _tables(path) if path.exists() else iter(())
        for kept_count, others_count, has_reasons in json.loads(text)["batches"]:
            table = next(kept_rows) if kept_count else nothing
            table = _together(table, next(others_rows), has_reasons) if others_count else table
            if has_reasons and REASON not in table.column_names:
                table = _with_reasons(table)
            yield from table.combine_chunks().to_batches()


def _tables(path: Path) -> Iterator[pa.Table]:
    with RowFile(path) as file:
        yield from file.tables()


def _logged(rows: pa.Table) -> pa.Table:
    return rows.drop_columns([name for name in RESERVED if name in rows.column_names])


def _with_reasons(rows: pa.Table) -> pa.Table:
    for name in (REASON, TEXT):
        rows = rows.append_column(name, pa.nulls(len(rows), pa.string()))
    return rows


def _together(kept: pa.Table, others: pa.Table, has_reasons: bool) -> pa.Table:
    """Merge the rows of a batch in the order of the logs."""
    places = np.asarray(others[PLACE])
    kept_places = np.setdiff1d(np.arange(len(kept) + len(others)), places, assume_unique=True)
    order = np.argsort(np.concatenate([kept_places, places]), kind="stable")
    metadata = kept.schema.metadata
    kept = _with_reasons(kept) if has_reasons else kept
    others = others.select(kept.column_names).cast(kept.schema)
    both = pa.concat_tables([kept, others]).take(pa.array(order))
    return both.replace_schema_metadata(metadata)


def sampled_elsewhere(workspace: Workspace, key: DayKey) -> tuple[Manifest, Path] | None:
    """Find a sampled day with the same logged rows as the day of another key.

    Only searches local workspaces: reading from a bucket is no faster than reading the logs.

    Args:
        workspace: Workspace to search.
        key: Key of the requested day.

    Returns:
        The day's manifest and verified folder; None if there is none.
    """
    parent = days_folder(workspace, key.kind, key.day)
    if not is_local(workspace.root) or not parent.exists():
        return None
    logged = _as_read(key.depends_on)
    for folder in sorted(parent.iterdir(), key=lambda path: path.name):
        if folder.name.startswith("."):
            continue
        try:
            manifest = read_manifest(folder)
            if _as_read(manifest.inputs) == logged and _is_complete(manifest):
                return manifest, fetch(folder, manifest=manifest)
        except (CorruptDataError, WorkspaceError):
            continue  # reported by the runs that use this output
    return None


def units_as_read(manifest: Manifest, folder: Path) -> Sequence[SampledRows]:
    """List the units of a day that was sampled for another key."""
    of = len(_files(manifest, BATCHES))
    joined = manifest.metrics["count"].get("joined", {})
    return [SampledRows(str(folder), at, of, joined if at == of - 1 else {}) for at in range(of)]


def _as_read(depends_on: Mapping[str, str]) -> dict[str, str]:
    """Parts of a key that determine the rows of a day before they are parsed.

    Roles are included if user ids are keyed, since they state which columns hold ids.
    """
    later = {"label", "sampling", "until"}
    later |= set() if "user_key" in depends_on else {"columns"}
    return {name: value for name, value in depends_on.items() if name not in later}


def _files(manifest: Manifest, name: str) -> list[str]:
    stem, _, ending = name.partition(".")
    return [
        entry.path
        for entry in manifest.files
        if entry.path == name or (entry.path.startswith(f"{stem}-") and entry.path.endswith(ending))
    ]


def is_as_read(path: str) -> bool:
    """Whether a file of a day's output holds rows that are not kept."""
    return path.startswith(("others", "as_read"))


def _is_complete(manifest: Manifest) -> bool:
    """Whether each unit stored its rows and its others; a unit without rows stores neither."""
    batches = _files(manifest, BATCHES)
    return bool(batches) and len(batches) == len(_files(manifest, ROWS)) == _units(manifest)


def _units(manifest: Manifest) -> int:
    return int(manifest.metrics.get("units", 0))
