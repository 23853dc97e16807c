"""A BigQuery emulator: it serves tables over REST and rows over the Storage Read API.

It answers what reading a table needs: `tables.get`, `tables.list`, the query for a table's
partitions, and read sessions with chosen columns and a range of times as their condition. A
condition whose literals are of another type than the column is refused, as the service does.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlsplit

import grpc
import pyarrow as pa
import pyarrow.compute as pc
from google.cloud.bigquery_storage_v1 import types

from emulator.serve import Answer, Refused, Served

TABLE = re.compile(r"/bigquery/v2/projects/([^/]+)/datasets/([^/]+)/tables(?:/([^/]+))?$")
QUERY = re.compile(r"/bigquery/v2/projects/([^/]+)/queries$")
BETWEEN = re.compile(
    r'`?(\w+)`? >= (DATE|DATETIME|TIMESTAMP) "(.+?)" AND `?(\w+)`? < (\w+) "(.+?)"'
)
SERVICE = "google.cloud.bigquery.storage.v1.BigQueryRead"
INGESTED = "_PARTITIONTIME"
BATCH = 64


@dataclass
class Table:
    """The rows of a table and its partitioning."""

    rows: pa.Table
    """Where `by` is empty, the rows have a column `_PARTITIONTIME`, which the schema hides."""
    by: str | None = None
    """Column that partitions the table; empty: the ingestion time; None: no partitions."""
    every: str = "DAY"
    changed: dict[str, float] = field(default_factory=dict)
    """Partition → time of its last change, in seconds since 1970."""
    made: float = field(default_factory=time.time)

    @property
    def column(self) -> str:
        return self.by or INGESTED

    def partitions(self) -> dict[str, int]:
        pattern = "%Y%m%d%H" if self.every == "HOUR" else "%Y%m%d"
        counts: dict[str, int] = {}
        for value in self.rows[self.column].to_pylist():
            name = "__NULL__" if value is None else value.strftime(pattern)
            counts[name] = counts.get(name, 0) + 1
        return counts


class BigQuery(Served):
    """Tables of a project, by data set and table name."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[tuple[str, str], Table] = {}
        self.sessions: list[types.ReadSession] = []
        """Every read session that a client requested."""
        self.missing_rows = 0
        """Number of rows left out of each response, as if the table were being written."""
        self._streams: dict[str, pa.Table] = {}
        self._grpc = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        self._grpc.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, self._methods()),)
        )
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        self.storage = f"127.0.0.1:{port}"

    def start(self) -> BigQuery:
        self._grpc.start()
        super().start()
        return self

    def stop(self) -> None:
        self._grpc.stop(None).wait()
        super().stop()

    def route(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        path = urlsplit(url).path
        if match := QUERY.fullmatch(path):
            return self._query(match[1], json.loads(body))
        match = TABLE.fullmatch(path)
        if match is None:
            raise Refused(404, f"no such address {path}")
        project, dataset, name = match.groups()
        if name is None:
            names = [table for owner, table in self.tables if owner == dataset]
            tables = [
                {"tableReference": _reference(project, dataset, table_name)} for table_name in names
            ]
            return Answer.json({"tables": tables, "totalItems": len(tables)})
        table = self._table(dataset, name)
        shown = [column for column in table.rows.schema if column.name != INGESTED]
        answer = {
            "tableReference": _reference(project, dataset, name),
            "schema": {"fields": [_field(column) for column in shown]},
            "numRows": str(len(table.rows)),
            "lastModifiedTime": str(int(table.made * 1e3)),
            "type": "TABLE",
        }
        if table.by is not None:
            by = {"type": table.every} | ({"field": table.by} if table.by else {})
            answer["timePartitioning"] = by
        return Answer.json(answer)

    def _table(self, dataset: str, name: str) -> Table:
        if (dataset, name) not in self.tables:
            raise Refused(404, f"Not found: Table {dataset}.{name}")
        return self.tables[dataset, name]

    def _query(self, project: str, asked: dict[str, Any]) -> Answer:
        match = re.search(r"FROM `([^`]+)`", asked["query"])
        if match is None or not match[1].endswith(".INFORMATION_SCHEMA.PARTITIONS"):
            raise Refused(400, "this emulator only lists partitions")
        dataset = match[1].split(".")[1]
        name = asked["queryParameters"][0]["parameterValue"]["value"]
        table = self._table(dataset, name)
        rows = [
            {"f": [{"v": partition}, {"v": str(count)},
                   {"v": str(int(1e6 * table.changed.get(partition, table.made)))}]}
            for partition, count in table.partitions().items()
        ]  # fmt: skip
        columns = (("partition_id", "STRING"), ("total_rows", "INTEGER"), ("changed", "INTEGER"))
        return Answer.json(
            {
                "jobComplete": True,
                "jobReference": {"projectId": project, "jobId": "listed", "location": "EU"},
                "schema": {"fields": [{"name": one, "type": kind} for one, kind in columns]},
                "totalRows": str(len(rows)),
                "rows": rows,
            }
        )

    def _methods(self) -> dict[str, Any]:
        return {
            "CreateReadSession": grpc.unary_unary_rpc_method_handler(
                self._create,
                request_deserializer=types.CreateReadSessionRequest.deserialize,
                response_serializer=types.ReadSession.serialize,
            ),
            "ReadRows": grpc.unary_stream_rpc_method_handler(
                self._read,
                request_deserializer=types.ReadRowsRequest.deserialize,
                response_serializer=types.ReadRowsResponse.serialize,
            ),
        }

    def _create(self, request: types.CreateReadSessionRequest, context: Any) -> types.ReadSession:
        session = request.read_session
        _, _, _, dataset, _, name = session.table.split("/")
        if (dataset, name) not in self.tables:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: Table {session.table}")
        table, options = self.tables[dataset, name], session.read_options
        rows = table.rows
        if options.row_restriction:
            rows = rows.filter(_condition(options.row_restriction, rows, context))
        rows = rows.select([str(column) for column in options.selected_fields])
        rows = rows.slice(0, len(rows) - self.missing_rows)
        self.sessions.append(session)
        stream = f"{request.parent}/sessions/{len(self.sessions)}/streams/0"
        self._streams[stream] = rows
        return types.ReadSession(
            name=stream.rpartition("/streams")[0],
            data_format=types.DataFormat.ARROW,
            arrow_schema=types.ArrowSchema(serialized_schema=rows.schema.serialize().to_pybytes()),
            streams=[types.ReadStream(name=stream)] if len(rows) else [],
        )

    def _read(self, request: types.ReadRowsRequest, _: Any) -> Iterator[types.ReadRowsResponse]:
        rows = self._streams[request.read_stream].slice(request.offset)
        for batch in rows.to_batches(max_chunksize=BATCH):
            yield types.ReadRowsResponse(
                row_count=len(batch),
                arrow_record_batch=types.ArrowRecordBatch(
                    serialized_record_batch=batch.serialize().to_pybytes(), row_count=len(batch)
                ),
            )


def _reference(project: str, dataset: str, table: str) -> dict[str, str]:
    return {"projectId": project, "datasetId": dataset, "tableId": table}


def _condition(text: str, rows: pa.Table, context: Any) -> Any:
    match = BETWEEN.fullmatch(text)
    if match is None or match[1] != match[4] or match[2] != match[5]:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"cannot parse {text}")
    assert match is not None
    column = rows[match[1]]
    if _field(pa.field("", column.type))["type"] != match[2]:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no matching signature for {text}")
    low, high = (_value(match[2], literal) for literal in (match[3], match[6]))
    return pc.and_(pc.greater_equal(column, low), pc.less(column, high))


def _value(kind: str, text: str) -> date | datetime:
    if kind == "DATE":
        return date.fromisoformat(text)
    plain = datetime.fromisoformat(text.removesuffix("+00"))
    return plain.replace(tzinfo=UTC) if kind == "TIMESTAMP" else plain


def _field(each: pa.Field) -> dict[str, str]:
    kind, mode = each.type, "NULLABLE"
    if pa.types.is_list(kind):
        kind, mode = kind.value_type, "REPEATED"
    if pa.types.is_timestamp(kind):
        name = "TIMESTAMP" if kind.tz else "DATETIME"
    else:
        names = {"string": "STRING", "int64": "INTEGER", "double": "FLOAT", "bool": "BOOLEAN",
                 "date32[day]": "DATE"}  # fmt: skip
        name = names.get(str(kind), "NUMERIC")
    return {"name": each.name, "type": name, "mode": mode}
