"""Locations of source files: a local folder, or a bucket.

Files of a bucket are copied into the cache when they are first read, and again when they have
changed. Every reader works on local files.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from nightbid.config.folder_source import BIGQUERY
from nightbid.data.day_names import walk
from nightbid.data.delta import LOG, is_delta
from nightbid.data.iceberg import METADATA, is_iceberg
from nightbid.data.text_files import HEAD_BYTES
from nightbid.errors import (
    CorruptDataError,
    DataError,
    MissingDataError,
    NightbidError,
    WorkspaceError,
    printable,
)
from nightbid.storage.files import replaced

BUCKETS = ("gs://", "s3://")
REMOTE = (*BUCKETS, BIGQUERY)
KEPT_SECONDS = 30 * 86_400.0
"""Copies that have not been read for this many seconds are deleted."""
_AT_ONCE = 8


class Place(Protocol):
    """A tree of log files."""

    root: Path
    """Local folder of the files; `fetch` copies them there if they are remote."""

    def walk(self) -> Iterable[tuple[Path, str]]:
        """List files and folders (with a trailing slash), each with its relative path."""
        ...

    def head(self, path: Path) -> bytes:
        """Read the first `HEAD_BYTES` of a file."""
        ...

    def fetch(self, paths: Iterable[Path]) -> None:
        """Copy files to this machine if they are not there yet."""
        ...

    def version(self, path: Path) -> tuple[object, ...]:
        """Values that change whenever a file's content does, obtained without reading the file."""
        ...

    def changed(self, path: Path) -> float | None:
        """Time of a file's last change, in seconds since 1970; None if there is no such file.

        Also finds files that `walk` skips, such as `_SUCCESS`.
        """
        ...


def open_place(
    address: str,
    cache: Path | None,
    kind: str = "",
    is_wanted: Callable[[str], bool] | None = None,
) -> Place:
    """Open a folder, a bucket or a table.

    Args:
        address: A path, `gs://` or `s3://` with bucket and prefix, or `bq://` with a table.
        cache: Folder for copies of remote files.
        kind: `source.kind` of the pipeline.
        is_wanted: Returns whether a column of a BigQuery table is read; None: all are. Files are
            copied whole.

    Raises:
        MissingDataError: There is no such folder or table.
        CorruptDataError: A folder to read as Parquet files is a table, some of whose files are
            stale.
    """
    if address.startswith(BIGQUERY):
        from nightbid.data.bigquery import BigQueryTable

        assert cache is not None, "a table needs a cache"
        return BigQueryTable(address, cache, is_wanted)
    if kind in ("delta", "iceberg"):
        from nightbid.data.tables import TableBucket, TableFolder

        if not address.startswith(BUCKETS):
            return TableFolder(Path(address).expanduser(), kind)
        assert cache is not None, "a bucket needs a cache"
        return TableBucket(address, cache, kind)
    if address.startswith(BUCKETS):
        assert cache is not None, "a bucket needs a cache"
        return BucketFolder(address, cache)
    root = Path(address).expanduser()
    if kind == "parquet":
        refuse_tables([f"{LOG}/"] if is_delta(root) else [], str(root))
        refuse_tables(["metadata/v1.metadata.json"] if is_iceberg(root) else [], str(root))
    return Folder(root)


def refuse_tables(names: Iterable[str], where: str) -> None:
    """Refuse to read a table as a folder of Parquet files.

    Args:
        names: Paths relative to the folder.
        where: The folder, for error messages.

    Raises:
        CorruptDataError: The folder is a Delta or Iceberg table.
    """
    for name in names:
        is_table = name.startswith(f"{LOG}/") or METADATA.fullmatch(name)
        if is_table:
            words = ("a Delta", "delta") if name.startswith(LOG) else ("an Iceberg", "iceberg")
            raise CorruptDataError(
                f"is {words[0]} table, and some of its files contain deleted rows",
                where=where,
                hint=f"set source.kind: {words[1]}",
            )


def check_name(path: Path) -> None:
    """Refuse a file whose name is not UTF-8, which Arrow cannot open."""
    if printable(str(path)) != str(path):
        raise CorruptDataError("the file's name is not UTF-8", where=str(path), hint="rename it")


class Folder:
    """A folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise MissingDataError(
                "no such folder",
                where=str(root.resolve()),
                hint="set source.folder to the folder of the daily partitions",
            )

    def walk(self) -> Iterable[tuple[Path, str]]:
        """List files and folders; links are followed."""
        return walk(self.root)

    def head(self, path: Path) -> bytes:
        """Read the first `HEAD_BYTES` of a file."""
        with open(path, "rb") as stream:
            return stream.read(HEAD_BYTES)

    def fetch(self, paths: Iterable[Path]) -> None:
        """Check the names of the files; they are local.

        Raises:
            CorruptDataError: A name is not UTF-8; Arrow cannot open such files.
        """
        for path in paths:
            check_name(path)

    def version(self, path: Path) -> tuple[object, ...]:
        """File size in bytes and modification time in nanoseconds."""
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns

    def changed(self, path: Path) -> float | None:
        """Modification time."""
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return None


class BucketFolder:
    """Objects below a prefix; each is copied into the cache when it is read.

    Args:
        address: `gs://` or `s3://` with bucket and prefix.
        cache: Folder for the copies, at `buckets/s3/bucket/prefix/…` in it.
    """

    def __init__(self, address: str, cache: Path) -> None:
        self.address = address.rstrip("/")
        self.root = cache / "buckets" / self.address.replace("://", "/", 1)
        self._versions: dict[Path, str] = {}

    def walk(self) -> Iterable[tuple[Path, str]]:
        """List the objects, except those with a name that begins with a dot or an underscore."""
        return [(self.root / relative, relative) for relative in self._objects]

    def head(self, path: Path) -> bytes:
        """Read the first bytes of an object."""
        with self._one_line():
            return bytes(self._files.cat_file(self._name(path), start=0, end=HEAD_BYTES))

    def fetch(self, paths: Iterable[Path]) -> None:
        """Copy the objects whose local copy is missing or out of date."""
        outdated = [path for path in paths if self._versions.get(path) != self._now(path)]
        if not outdated:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w") as lock, self._one_line():
            fcntl.flock(lock, fcntl.LOCK_EX)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self._copy, outdated))
            self._remove_old()

    def version(self, path: Path) -> tuple[object, ...]:
        """The object's version, as the bucket reports it."""
        return (self._now(path),)

    def changed(self, path: Path) -> float | None:
        """Time at which the object was stored; now if the bucket does not report it."""
        try:
            with self._one_line():
                info = self._files.info(self._name(path))
        except MissingDataError:
            return None
        for key in ("LastModified", "mtime", "updated"):
            if value := info.get(key):
                at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
                return at.timestamp()
        return time.time()

    def _copy(self, path: Path) -> None:
        now, note = self._now(path), path.with_name(f".{path.name}.version")
        with suppress(OSError, ValueError):
            if json.loads(note.read_text()) == now and path.is_file():
                os.utime(note)
                self._versions[path] = now
                return
        note.unlink(missing_ok=True)
        with replaced(path) as temporary:
            self._files.get_file(self._name(path), str(temporary))
        note.write_text(json.dumps(now))
        self._versions[path] = now

    def _remove_old(self) -> None:
        for note in self.root.rglob(".*.version"):
            if note.stat().st_mtime < time.time() - KEPT_SECONDS:
                note.with_name(note.name.removeprefix(".").removesuffix(".version")).unlink(
                    missing_ok=True
                )
                note.unlink(missing_ok=True)

    def _name(self, path: Path) -> str:
        return f"{self._prefix}/{path.relative_to(self.root).as_posix()}"

    def _now(self, path: Path) -> str:
        relative = path.relative_to(self.root).as_posix()
        if relative not in self._objects:
            raise MissingDataError(
                "the file is gone", where=f"{self.address}/{relative}", hint="load the day again"
            )
        return self._objects[relative]

    @cached_property
    def _files(self) -> Any:
        import fsspec

        if self.address.startswith("gs://"):
            from nightbid.storage.gcs import configure_reading

            configure_reading()
        with self._one_line():
            # A new instance, without cached listings or settings of an earlier environment.
            return fsspec.filesystem(
                self.address.partition("://")[0], use_listings_cache=False, skip_instance_cache=True
            )

    @cached_property
    def _prefix(self) -> str:
        return self.address.partition("://")[2]

    @cached_property
    def _objects(self) -> dict[str, str]:
        """Path below the prefix → a string that changes with the object's content."""
        with self._one_line():
            infos = self._files.find(self._prefix, detail=True)
        self._refuse_tables(name.removeprefix(f"{self._prefix}/") for name in infos)
        objects = {}
        for name, info in infos.items():
            relative = name.removeprefix(f"{self._prefix}/")
            if self._is_hidden(relative) or relative in ("", name) or name.endswith("/"):
                continue
            tag = next((str(info[key]) for key in ("generation", "ETag", "etag") if info.get(key)),
                       "")  # fmt: skip
            objects[relative] = f"{tag} {info.get('size')} {info.get('LastModified', '')}"
        if not objects:
            raise MissingDataError(
                "there are no objects under this prefix",
                where=self.address,
                hint="set source.folder to the bucket and the prefix of the daily partitions",
            )
        return objects

    def _is_hidden(self, relative: str) -> bool:
        return any(part.startswith((".", "_")) for part in relative.split("/"))

    def _refuse_tables(self, names: Iterable[str]) -> None:
        refuse_tables(names, self.address)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except NightbidError as error:
            if isinstance(error, OSError):  # raised by the file system behind gs://
                raise self._refused(error) from error
            raise
        except FileNotFoundError as error:
            raise MissingDataError(
                "there is no such bucket or object", where=self.address, hint="set source.folder"
            ) from error
        except Exception as error:  # each client raises its own exception types
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> WorkspaceError:
        text = " ".join(str(getattr(error, "what", error)).split())[:200]
        return WorkspaceError(
            f"the bucket cannot be read: {type(error).__name__}: {text}",
            where=self.address,
            hint="check the name, the network and this machine's credentials (docs/data.md)",
        )


@contextmanager
def named_place(place: Place) -> Iterator[None]:
    """Replace the path of a local copy in errors with the address of the original."""
    try:
        yield
    except DataError as error:
        address: str = getattr(place, "address", "")
        if address and str(place.root) in error.where:
            where = error.where.replace(str(place.root), address)
            raise type(error)(error.what, where=where, hint=error.hint) from error
        raise
