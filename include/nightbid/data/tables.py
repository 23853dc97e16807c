"""Lakehouse tables as places of files: the files of the newest version, by partition."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nightbid.data.delta import LOG, delta_files, is_delta
from nightbid.data.iceberg import iceberg_files, is_iceberg, newest_metadata
from nightbid.data.places import BucketFolder, Folder, named_place
from nightbid.errors import MissingDataError

CALLED = {"delta": "Delta", "iceberg": "Iceberg"}
HAS = {"delta": LOG, "iceberg": "metadata/*.metadata.json"}
FILES = {"delta": delta_files, "iceberg": iceberg_files}


class TableFolder(Folder):
    """A table in a local folder.

    Args:
        root: Folder of the table.
        kind: `delta` or `iceberg`.
    """

    def __init__(self, root: Path, kind: str) -> None:
        super().__init__(root)
        self._kind = kind
        if not (is_delta(root) if kind == "delta" else is_iceberg(root)):
            raise _no_table(kind, str(root))

    def walk(self) -> Iterable[tuple[Path, str]]:
        """List the files of the newest version, each below a folder per partition column."""
        return FILES[self._kind](self.root, self.fetch)


class TableBucket(BucketFolder):
    """A table in a bucket: its log or metadata is copied first, then the files to read.

    Args:
        address: `gs://` or `s3://` with bucket and prefix.
        cache: Folder for the copies.
        kind: `delta` or `iceberg`.
    """

    def __init__(self, address: str, cache: Path, kind: str) -> None:
        super().__init__(address, cache)
        self._kind = kind

    def _is_hidden(self, relative: str) -> bool:
        return super()._is_hidden(relative) and not relative.startswith(f"{LOG}/")

    def _refuse_tables(self, names: Iterable[str]) -> None:
        """Do nothing: a table is expected here."""

    def walk(self) -> Iterable[tuple[Path, str]]:
        """List the files of the newest version, each below a folder per partition column."""
        folder = LOG if self._kind == "delta" else "metadata"
        names = [name for name in self._objects if name.startswith(f"{folder}/")]
        if self._kind == "iceberg":
            names = [name for name in names if name.endswith(".metadata.json")]
            names = [newest_metadata(names, self.address)] if names else []
        if not names:
            raise _no_table(self._kind, self.address)
        newest = {self.root / name for name in names}
        self.fetch(newest)
        # Files of older versions, or deleted from the bucket, are not part of the table.
        for path in (self.root / folder).glob("[!.]*" if folder == LOG else "*.json"):
            if path not in newest:
                path.unlink(missing_ok=True)
        with named_place(self):
            return list(FILES[self._kind](self.root, self.fetch))


def _no_table(kind: str, where: str) -> MissingDataError:
    return MissingDataError(
        f"is not a valid {CALLED[kind]} table: it has no {HAS[kind]}",
        where=where,
        hint="set source.folder to the table's folder, or source.kind: parquet",
    )
