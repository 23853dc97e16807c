"""Reads a BigQuery table as a folder of files: each day is copied once, as Parquet.

Days come from the metadata of the table's partitions, rows from the Storage Read API, which streams
Arrow record batches of the selected columns. A day is copied again when its partition has
changed. Rows are streamed, so memory does not grow with the table.

`BIGQUERY_EMULATOR_HOST` (HTTP, read by Google's client) and `BIGQUERY_STORAGE_EMULATOR_HOST`
(gRPC, for the Storage Read API) hold the addresses of an emulator.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.config.folder_source import BIGQUERY_TABLE
from nightbid.counts import counted
from nightbid.errors import CorruptDataError, MissingDataError, NightbidError, WorkspaceError
from nightbid.storage.files import replaced

KEPT_SECONDS = 30 * 86_400.0
"""Copies that have not been read for this many seconds are deleted."""
_AT_ONCE = 4
_NAME = "part-00000.parquet"
_PARTITION = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{2})?")
_SHARD = re.compile(r"\d{8}")
_LIST = """
SELECT partition_id, total_rows, UNIX_MICROS(last_modified_time) AS changed
FROM `{project}.{dataset}.INFORMATION_SCHEMA.PARTITIONS`
WHERE table_name = @table AND total_rows > 0
"""


@dataclass(frozen=True)
class _TablePartition:
    """One partition, or one table of a date-sharded set."""

    table: str
    """Resource name in the form that the Storage Read API expects."""
    restriction: str
    """SQL condition that selects the day's rows; empty: all rows of the table."""
    changed: float
    """Time of the last change, in seconds since 1970."""
    rows: int


class BigQueryTable:
    """A table partitioned by day or hour, or date-sharded tables (`events_YYYYMMDD`).

    Args:
        address: `bq://project.dataset.table`; a trailing star stands for the day.
        cache: Folder for the copies.
        is_wanted: Returns whether a column is read; None: all columns are read.
    """

    def __init__(
        self, address: str, cache: Path, is_wanted: Callable[[str], bool] | None = None
    ) -> None:
        match = BIGQUERY_TABLE.fullmatch(address)
        if match is None:
            raise MissingDataError(
                "is not a BigQuery table", where=address, hint="write bq://project.dataset.table"
            )
        self.address = address
        self._project, self._dataset, self._table = match.groups()
        self._is_wanted = is_wanted
        self._cache = cache / "bigquery" / self._project / self._dataset
        # Each selection of columns has its own copies.
        digest = hashlib.sha256(json.dumps(self._columns).encode()).hexdigest()[:16]
        self.root = self._cache / self._table.replace("*", "_all") / digest
        """Folder of the copies of this table and selection of columns."""

    def walk(self) -> Iterable[tuple[Path, str]]:
        """List one file per day or hour that has rows."""
        return [(self.root / relative, relative) for relative in self._days]

    def head(self, path: Path) -> bytes:
        """Return the first bytes of a Parquet file."""
        return b"PAR1"

    def fetch(self, paths: Iterable[Path]) -> None:
        """Copy the days whose local copy is missing or out of date."""
        outdated = [path for path in paths if not self._is_here(path)]
        if not outdated:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w") as lock, self._one_line():
            fcntl.flock(lock, fcntl.LOCK_EX)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self._copy, [path for path in outdated if not self._is_here(path)]))
        self._remove_old()

    def version(self, path: Path) -> tuple[object, ...]:
        """Time of the partition's last change and its number of rows."""
        day = self._day(path)
        return day.changed, day.rows

    def changed(self, path: Path) -> float | None:
        """Time of the partition's last change, in seconds since 1970; None: unknown."""
        with suppress(ValueError, KeyError):
            return self._days[path.relative_to(self.root).as_posix()].changed
        return None

    def _day(self, path: Path) -> _TablePartition:
        relative = path.relative_to(self.root).as_posix()
        if relative not in self._days:
            raise MissingDataError(
                "the day is gone", where=f"{self.address}, {relative}", hint="load the day again"
            )
        return self._days[relative]

    def _is_here(self, path: Path) -> bool:
        note = path.with_name(".version")
        with suppress(OSError, ValueError):
            if json.loads(note.read_text()) == list(self.version(path)) and path.is_file():
                os.utime(note)
                return True
        return False

    def _copy(self, path: Path) -> None:
        """Stream the rows of a day into a temporary Parquet file, then move it into place."""
        from google.cloud.bigquery_storage_v1 import types

        day, note = self._day(path), path.with_name(".version")
        note.unlink(missing_ok=True)
        options = types.ReadSession.TableReadOptions(
            selected_fields=self._columns, row_restriction=day.restriction
        )
        session = self._reader.create_read_session(
            parent=f"projects/{self._client.project or self._project}",
            read_session=types.ReadSession(
                table=day.table, data_format=types.DataFormat.ARROW, read_options=options
            ),
            max_stream_count=1,  # the order of rows is that of one stream
        )
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        written = 0
        with replaced(path) as temporary:
            with pq.ParquetWriter(temporary, schema, compression="zstd") as file:
                for stream in session.streams:
                    for answer in self._reader.read_rows(stream.name):
                        batch = pa.ipc.read_record_batch(
                            pa.py_buffer(answer.arrow_record_batch.serialized_record_batch), schema
                        )
                        file.write_batch(batch)
                        written += len(batch)
            if written != day.rows:
                raise MissingDataError(
                    f"{counted(written, 'row')} came of {day.rows:,}: the table is being written,"
                    " or a policy hides rows",
                    where=f"{self.address}, {path.parent.relative_to(self.root)}",
                    hint="run it again when the load has ended, or set arrival.settled_minutes",
                )
        note.write_text(json.dumps(self.version(path)))

    def _remove_old(self) -> None:
        for note in self._cache.rglob(".version"):
            if note.stat().st_mtime < time.time() - KEPT_SECONDS:
                (note.parent / _NAME).unlink(missing_ok=True)
                note.unlink(missing_ok=True)

    @cached_property
    def _days(self) -> dict[str, _TablePartition]:
        """Path relative to the root → the partition or table that it is a copy of."""
        with self._one_line():
            days = dict(self._shards() if self._table.endswith("*") else self._partitions())
        if not days:
            raise MissingDataError(
                "the table has no day with rows", where=self.address, hint="set source.folder"
            )
        return days

    def _partitions(self) -> Iterator[tuple[str, _TablePartition]]:
        from google.cloud import bigquery

        column, kind = self._partitioned_by()
        query = _LIST.format(project=self._project, dataset=self._dataset)
        config = bigquery.QueryJobConfig(
            query_parameters=[bigquery.ScalarQueryParameter("table", "STRING", self._table)]
        )
        name = f"projects/{self._project}/datasets/{self._dataset}/tables/{self._table}"
        for row in self._client.query_and_wait(query, job_config=config):
            match = _PARTITION.fullmatch(row["partition_id"])
            if match is None:
                continue  # rows without a day, or still in the streaming buffer
            year, month, day, hour = match.groups()
            start = datetime(int(year), int(month), int(day), int(hour or 0))
            end = start + (timedelta(hours=1) if hour else timedelta(days=1))
            folder = f"dt={start:%Y-%m-%d}" + (f"/hour={hour}" if hour else "")
            between = f"{column} >= {_literal(start, kind)} AND {column} < {_literal(end, kind)}"
            yield (
                f"{folder}/{_NAME}",
                _TablePartition(name, between, row["changed"] / 1e6, row["total_rows"]),
            )

    def _partitioned_by(self) -> tuple[str, str]:
        """Column that partitions the table, and its type.

        Raises:
            CorruptDataError: The table is not partitioned by day or hour.
        """
        by = self._shape.time_partitioning
        if by is None or by.type_ not in ("DAY", "HOUR"):
            how = f"partitioned by {by.type_}" if by is not None else "not partitioned by time"
            raise CorruptDataError(
                f"the table is {how}",
                where=self.address,
                hint="partition it by DAY or HOUR, or name tables of a day each, table_*",
            )
        if by.field is None:
            return "_PARTITIONTIME", "TIMESTAMP"
        return f"`{by.field}`", next(
            field.field_type for field in self._shape.schema if field.name == by.field
        )

    def _shards(self) -> Iterator[tuple[str, _TablePartition]]:
        for shard, day in self._shard_tables:
            table = self._client.get_table(f"{self._project}.{self._dataset}.{shard}")
            if table.num_rows:
                name = f"projects/{self._project}/datasets/{self._dataset}/tables/{shard}"
                changed = table.modified.astimezone(UTC).timestamp()
                path = f"dt={day[:4]}-{day[4:6]}-{day[6:]}/{_NAME}"
                yield path, _TablePartition(name, "", changed, table.num_rows)

    @cached_property
    def _shard_tables(self) -> list[tuple[str, str]]:
        """Date-sharded tables that match the address, each with its day as YYYYMMDD."""
        stem = self._table[:-1]
        tables = self._client.list_tables(f"{self._project}.{self._dataset}")
        names = [table.table_id for table in tables if table.table_id.startswith(stem)]
        shards = [(name, name[len(stem) :]) for name in names]
        shards = sorted((name, day) for name, day in shards if _SHARD.fullmatch(day))
        if not shards:
            raise MissingDataError(
                f"there is no table {stem}YYYYMMDD", where=self.address, hint="set source.folder"
            )
        return shards

    @cached_property
    def _shape(self) -> Any:
        """Metadata of the table, or of the newest date-sharded one."""
        with self._one_line():
            many = self._table.endswith("*")
            name = self._shard_tables[-1][0] if many else self._table
            return self._client.get_table(f"{self._project}.{self._dataset}.{name}")

    @property
    def _columns(self) -> list[str]:
        """Columns to read."""
        names = [field.name for field in self._shape.schema]
        chosen = [name for name in names if self._is_wanted is None or self._is_wanted(name)]
        return chosen or names[:1]

    @cached_property
    def _client(self) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        with self._one_line():
            if os.environ.get("BIGQUERY_EMULATOR_HOST"):
                nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
                return bigquery.Client(project=self._project, credentials=nobody)
            return bigquery.Client()

    @cached_property
    def _reader(self) -> Any:
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
            BigQueryReadGrpcTransport,
        )

        if emulator := os.environ.get("BIGQUERY_STORAGE_EMULATOR_HOST"):
            import grpc  # type: ignore[import-untyped]

            channel = grpc.insecure_channel(emulator.removeprefix("http://"))
            return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
        return BigQueryReadClient()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        from google.api_core.exceptions import NotFound

        try:
            yield
        except NightbidError:
            raise
        except NotFound as error:
            raise MissingDataError(
                "there is no such table", where=self.address, hint="set source.folder"
            ) from error
        except Exception as error:  # each client raises its own exception types
            text = " ".join(str(getattr(error, "message", error)).split())[:200]
            raise WorkspaceError(
                f"BigQuery cannot be read: {type(error).__name__}: {text}",
                where=self.address,
                hint="check the name, the network and this machine's credentials (docs/data.md)",
            ) from error


def _literal(at: datetime, kind: str) -> str:
    """Write a time as a BigQuery SQL literal of a column's type."""
    if kind == "DATE":
        return f'DATE "{at:%Y-%m-%d}"'
    zone = "+00" if kind == "TIMESTAMP" else ""
    return f'{kind} "{at:%Y-%m-%d %H:%M:%S}{zone}"'
