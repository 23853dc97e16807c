"""The ledger as files of the workspace, safe for any number of writers.

Every batch of observations is a new small file, never changed. Compaction folds the files into one
Parquet file; a crash during it leaves duplicates, which fold away.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterable

from upath import UPath

from nightbid.cost.entries import LedgerEntry, fold
from nightbid.errors import WorkspaceError
from nightbid.storage.workspace import Workspace, remove, write_atomically, write_once


class FileLedger:
    """Keeps observations below `ledger/` of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._root: UPath = workspace.root / "ledger"

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations; one file per attempt that they belong to."""
        batches: dict[tuple[str, str, str, int], list[LedgerEntry]] = {}
        for entry in entries:
            batches.setdefault(entry.attempt_key, []).append(entry)
        for (pipeline, run_id, stage, number), batch in batches.items():
            name = f"{stage}.{number}.{uuid.uuid4().hex}.json"
            text = json.dumps([entry.model_dump(mode="json") for entry in batch])
            write_once(self._root / "entries" / pipeline / run_id / name, text)

    def compact(self) -> int:
        """Fold every file into one Parquet file; returns how many files that replaced."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        old = [*self._json_files(None, None), *self._compacted()]
        if len(old) < 2:
            return 0
        folded = fold(self._load(old))
        rows = [entry.model_dump(mode="json") for entry in folded]
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), stream)
        path = self._root / "compacted" / f"{uuid.uuid4().hex}.parquet"
        write_atomically(path, stream.getvalue())
        for each in old:
            remove(each)
        return len(old)

    def read(
        self, pipeline: str | None = None, run_id: str | None = None, stage: str | None = None
    ) -> list[LedgerEntry]:
        """Observations, at least those that are asked for, in no order."""
        for _ in range(10):
            try:
                # Small files first: what a compaction moves meanwhile is then in the Parquet.
                loose = self._load(self._json_files(pipeline, run_id), vanishing=True)
                return loose + self._load(self._compacted())
            except FileNotFoundError:
                continue
        raise WorkspaceError(
            "the ledger is being compacted over and over",
            where=str(self._root),
            hint="stop the processes that run `nightbid cost compact`",
        )

    def _json_files(self, pipeline: str | None, run_id: str | None) -> list[UPath]:
        folders = [self._root / "entries"]
        for wanted in (pipeline, run_id):
            folders = [
                child
                for folder in folders
                if folder.exists()
                for child in ([folder / wanted] if wanted else folder.iterdir())
            ]
        return [
            path
            for folder in folders
            if folder.exists()
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
        found: list[LedgerEntry] = []
        for path in paths:
            try:
                if path.name.endswith(".json"):
                    rows = json.loads(path.read_text())
                else:
                    import pyarrow.parquet as pq

                    with path.open("rb") as stream:
                        rows = pq.read_table(stream).to_pylist()
            except FileNotFoundError:
                if vanishing:
                    continue
                raise
            found.extend(LedgerEntry.model_validate(row) for row in rows)
        return found
