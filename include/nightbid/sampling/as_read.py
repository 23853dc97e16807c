"""Rows of a day as the logs had them, from a day that was sampled for another label.

A pipeline of clicks and one of conversions read the same logs. The day's output holds every row
that was read: those kept in `rows.parquet`, and in `others.parquet` those set aside, repeated or
outside the label's condition, with their place. `as_read.json` says how many each batch had. Put
together they are the batches of the logs, so what is sampled of them is the same bytes. It is done
where logs are slow to read: text, Avro, and what lies in a bucket or in BigQuery.
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
from nightbid.config.sources import EventsSource, FolderSource, Source
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.days import DayKey, days_folder
from nightbid.night.manifest import Manifest
from nightbid.sampling.plain import plain_table
from nightbid.sampling.row_files import ROWS, RowFile, RowWriter, numbered
from nightbid.schema import PLACE, REASON, RESERVED, TEXT, USER
from nightbid.storage.workspace import Workspace, fetch, is_local, read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHERS, BATCHES = "others.parquet", "as_read.json"
MOST_OTHERS = 0.1
"""Share of the rows read that may lie in `others.parquet`. Where a label's condition leaves out
most rows, a copy of them would cost more than reading the logs once more."""
LARGEST_BATCH = 1 << 20
"""Rows of a batch that the file's row groups keep apart."""


FAST = ("parquet", "orc", "delta", "iceberg")
"""Kinds of which the files of this machine are read as fast as sampled rows."""


def is_slow(block: Source) -> bool:
    """Tell whether logs take longer to read than rows that were sampled of them."""
    if isinstance(block, EventsSource):
        streams = (block.impressions, block.clicks, block.conversions)
        return any(is_slow(each) for each in streams if each)
    return isinstance(block, FolderSource) and (block.kind not in FAST or "://" in block.folder)


class OthersWriter:
    """Keeps the rows of a unit that are not in its `rows.parquet`, unless they are many.

    Args:
        folder: of the unit.
        user: column of the user: those whose rows are to be forgotten are looked for by it.
        is_wanted: else nothing is written.
    """

    def __init__(self, folder: Path, user: str, *, is_wanted: bool) -> None:
        self._folder, self._user = folder, user
        self._writer: RowWriter | None = RowWriter(folder / OTHERS) if is_wanted else None
        self._batches: list[tuple[int, int, bool]] = []
        self._read = self._others = 0

    def add(self, table: pa.Table, kept: npt.NDArray[np.int64]) -> None:
        """Keep a batch's other rows.

        Args:
            table: the batch as it was read.
            kept: places of the rows that are kept.
        """
        if self._writer is None:
            return
        self._read += len(table)
        self._others += len(table) - len(kept)
        if len(table) >= LARGEST_BATCH or self._others > MOST_OTHERS * self._read + 1:
            self._give_up()
            return
        has_reasons = REASON in table.column_names
        self._batches.append((len(kept), len(table) - len(kept), has_reasons))
        if len(kept) == len(table):
            return
        places = np.setdiff1d(np.arange(len(table)), kept, assume_unique=True)
        rows = plain_table(table.take(pa.array(places)))
        for name in (REASON, TEXT):
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(len(rows), pa.string()))
        users = hashes(rows[self._user]).view(np.int64)
        self._writer.write(
            rows.append_column(PLACE, pa.array(places)).append_column(USER, pa.array(users))
        )

    def close(self, of: int) -> None:
        """Finish; `of` is how many units the day has."""
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
    """Forget the other rows of a unit: it can then be read from the logs alone."""
    for name in (OTHERS, BATCHES):
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class SampledRows:
    """A unit of logs that is read from a sampled day; see `nightbid.data.source.UnitOfLogs`."""

    folder: str
    number: int
    of: int
    joined: Mapping[str, float]
    """What a join of events found when the logs were read; of the day's last unit."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give the batches as the logs had them, in types that `plain_table` leaves alone.

        Raises:
            WorkspaceError: the day was removed meanwhile.
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
        """What the join found."""
        return dict(self.joined)

    def _batches(self, folder: Path, rows: RowFile) -> Iterator[pa.RecordBatch]:
        kept_rows = (_logged(each) for each in rows.tables() if len(each))
        nothing = _logged(rows.empty())
        path = folder / numbered(OTHERS, self.number, self.of)
        text = (folder / numbered(BATCHES, self.number, self.of)).read_text()
        others_rows = _tables(path) if path.exists() else iter(())
        for kept, others, has_reasons in json.loads(text)["batches"]:
            table = next(kept_rows) if kept else nothing
            table = _together(table, next(others_rows), has_reasons) if others else table
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
    """Put the rows of a batch into the order of the logs."""
    places = np.asarray(others[PLACE])
    kept_places = np.setdiff1d(np.arange(len(kept) + len(others)), places, assume_unique=True)
    order = np.argsort(np.concatenate([kept_places, places]), kind="stable")
    metadata = kept.schema.metadata
    kept = _with_reasons(kept) if has_reasons else kept
    others = others.select(kept.column_names).cast(kept.schema)
    both = pa.concat_tables([kept, others]).take(pa.array(order))
    return both.replace_schema_metadata(metadata)


def sampled_elsewhere(workspace: Workspace, key: DayKey) -> tuple[Manifest, Path] | None:
    """Find a sampled day whose rows, as read, are those of another key.

    Only in a workspace on this machine: from a bucket a day's rows come no faster than its logs.

    Args:
        workspace: where to look.
        key: of the day that is wanted.

    Returns:
        Its manifest and its folder, verified; None where there is none.
    """
    parent = days_folder(workspace, key.kind, key.day)
    if not is_local(workspace.root) or not parent.exists():
        return None
    wanted = _as_read(key.depends_on)
    for folder in sorted(parent.iterdir(), key=lambda each: each.name):
        if folder.name.startswith("."):
            continue
        try:
            manifest = read_manifest(folder)
            if _as_read(manifest.inputs) == wanted and _is_complete(manifest):
                return manifest, fetch(folder, manifest=manifest)
        except (CorruptDataError, WorkspaceError):
            continue  # it is found damaged, or gone, by those whose day it is
    return None


def units_as_read(manifest: Manifest, folder: Path) -> Sequence[SampledRows]:
    """List the units of a day that was sampled elsewhere."""
    of = len(_files(manifest, BATCHES))
    joined = manifest.metrics["count"].get("joined", {})
    return [SampledRows(str(folder), at, of, joined if at == of - 1 else {}) for at in range(of)]


def _as_read(depends_on: Mapping[str, str]) -> dict[str, str]:
    """What the rows of a day depend on before they are parsed.

    Roles count where ids of users are keyed: they say which columns hold them.
    """
    later = {"label", "sampling", "until"}
    later |= set() if "user_key" in depends_on else {"columns"}
    return {name: each for name, each in depends_on.items() if name not in later}


def _files(manifest: Manifest, name: str) -> list[str]:
    stem, _, ending = name.partition(".")
    return [
        each.path
        for each in manifest.files
        if each.path == name or (each.path.startswith(f"{stem}-") and each.path.endswith(ending))
    ]


def is_as_read(path: str) -> bool:
    """Whether a file of a day holds what its kept rows lack."""
    return path.startswith(("others", "as_read"))


def _is_complete(manifest: Manifest) -> bool:
    """Whether each unit kept its rows and its others; a unit without any rows has neither."""
    batches = _files(manifest, BATCHES)
    return bool(batches) and len(batches) == len(_files(manifest, ROWS)) == _units(manifest)


def _units(manifest: Manifest) -> int:
    return int(manifest.metrics.get("units", 0))
