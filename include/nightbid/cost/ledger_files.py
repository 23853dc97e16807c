"""The ledger as files of the workspace, safe for any number of writers.

Each batch of observations is a new small file with a checksum that never changes. Compaction merges
the files into one Parquet file; a crash during it leaves duplicates, which are merged on reading.
"""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pydantic import ValidationError
from upath import UPath

from nightbid.cost.entries import LedgerEntry, fold
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.sealed import Sealed, first_fault, seal
from nightbid.storage.files import is_local, remove, write_atomically, write_once
from nightbid.storage.workspace import Workspace

log = logging.getLogger(__name__)
MOST_REMEMBERED = 10_000
"""Files of a bucket whose entries a process remembers. A file has some five entries."""
RESTORE = "restore this file from a backup, or delete it: its costs are then not counted"


class Batch(Sealed):
    """Observations of one attempt, as stored in a file."""

    entries: tuple[LedgerEntry, ...]


def read_batch(content: bytes, where: object) -> list[LedgerEntry]:
    """Read a small file of the ledger; older versions wrote a bare list.

    Args:
        content: Bytes of the file.
        where: Path of the file, for the error message.

    Raises:
        CorruptDataError: The file is damaged.
    """
    try:
        tree = json.loads(content)
        if isinstance(tree, list):
            tree = {"entries": tree}
        return list(Batch.model_validate_json(json.dumps(tree)).entries)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, error) from error


def read_compacted(content: bytes, where: object) -> list[LedgerEntry]:
    """Read a Parquet file of the ledger.

    Args:
        content: Bytes of the file.
        where: Path of the file, for the error message.

    Raises:
        CorruptDataError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
        return [LedgerEntry.model_validate(row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, ValidationError, UnicodeDecodeError) as error:
        raise _damaged(where, error) from error


def _damaged(where: object, error: Exception) -> CorruptDataError:
    return CorruptDataError(
        f"not a readable file of the ledger: {first_fault(error)}", where=str(where), hint=RESTORE
    )


class FileLedger:
    """Stores observations in the folder `ledger/` of a workspace.

    Args:
        workspace: Workspace of the ledger.
        lenient: Whether to skip a damaged file with a warning instead of an error, so that it does
            not stop a night.
    """

    def __init__(self, workspace: Workspace, *, lenient: bool = False) -> None:
        self._root: UPath = workspace.root / "ledger"
        self._lenient = lenient

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations; one file per attempt that they belong to."""
        batches: dict[tuple[str, str, str, int], list[LedgerEntry]] = {}
        for entry in entries:
            batches.setdefault(entry.attempt_key, []).append(entry)
        for (pipeline, run_id, stage, number), batch in batches.items():
            name = f"{stage}.{number}.{uuid.uuid4().hex}.json"
            path = self._root / "entries" / pipeline / run_id / name
            write_once(path, seal(Batch(entries=tuple(batch))))

    def compact(self) -> int:
        """Merge all files into one Parquet file; return the number of replaced files.

        Damaged files stay unchanged. Of two concurrent compactions, one does nothing.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        old: list[UPath] = []
        entries: list[LedgerEntry] = []
        for path in [*self._json_files(None, None), *self._compacted()]:
            try:
                entries += _read(path)
            except FileNotFoundError:
                return 0
            except CorruptDataError as error:
                log.warning("%s", error)
            else:
                old.append(path)
        if len(old) < 2:
            return 0
        rows = [entry.model_dump(mode="json") for entry in fold(entries)]
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), stream, write_page_checksum=True)
        path = self._root / "compacted" / f"{uuid.uuid4().hex}.parquet"
        write_atomically(path, stream.getvalue())
        for old_path in old:
            remove(old_path)
        return len(old)

    def read(
        self, pipeline: str | None = None, run_id: str | None = None, stage: str | None = None
    ) -> list[LedgerEntry]:
        """Read at least the requested observations, in no particular order."""
        for _ in range(10):
            try:
                # Read small files first; entries that a compaction moves are then in the Parquet.
                loose = self._load(self._json_files(pipeline, run_id), vanishing=True)
                return loose + self._load(self._compacted())
            except FileNotFoundError:
                continue
        raise WorkspaceError(
            "the ledger is compacted again and again",
            where=str(self._root),
            hint="stop the processes that run `nightbid cost compact`",
        )

    def _json_files(self, pipeline: str | None, run_id: str | None) -> list[UPath]:
        folders = [self._root / "entries"]
        for name in (pipeline, run_id):
            folders = [
                child
                for folder in folders
                if folder.is_dir()
                for child in ([folder / name] if name else folder.iterdir())
            ]
        return [
            path
            for folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
            if path.name.endswith(".json") and not path.name.startswith(".")
        ]

    def _compacted(self) -> list[UPath]:
        folder = self._root / "compacted"
        if not folder.exists():
            return []
        return [
            path
            for path in folder.iterdir()
            if path.name.endswith(".parquet") and not path.name.startswith(".")
        ]

    def _load(self, paths: Iterable[UPath], *, vanishing: bool = False) -> list[LedgerEntry]:
        entries: list[LedgerEntry] = []
        for path in paths:
            try:
                entries += _read(path)
            except FileNotFoundError:
                if not vanishing:
                    raise
            except CorruptDataError as error:
                if not self._lenient:
                    raise
                log.warning("left out: %s", error)
        return entries


def _read(path: UPath) -> Sequence[LedgerEntry]:
    return _parse(path) if is_local(path) else _read_once(path)


@lru_cache(maxsize=MOST_REMEMBERED)
def _read_once(path: UPath) -> tuple[LedgerEntry, ...]:
    # Each poll of a job reads the ledger. In a bucket, reading a file takes two requests.
    return tuple(_parse(path))


def _parse(path: UPath) -> list[LedgerEntry]:
    read = read_batch if path.name.endswith(".json") else read_compacted
    return read(path.read_bytes(), path)
