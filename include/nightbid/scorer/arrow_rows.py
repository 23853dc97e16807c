"""Parse the Arrow IPC stream of a request into the raw rows that a bundle scores.

Columns have the types of the logs, or types with the same values: a narrower integer, a dictionary
of strings. Values that all rows share may be given once, as JSON under `context` in the schema's
metadata. The body is untrusted: it is validated in full before a value is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.scorer.rows import (
    MOST_ROWS,
    MOST_VALUES,
    RequestRows,
    TooManyRowsError,
    is_spelled_otherwise,
    shared_value,
)
from nightbid.serving.json_values import LISTS

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
BID, ID = "nb_bid", "nb_id"
"""Columns of a request to rank, in addition to those of the logs: bid and id of each row."""
_HINT = "send one Arrow IPC stream, uncompressed, with the columns of GET /columns"
_TEXTS = (pa.types.is_string, pa.types.is_large_string)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary)
_LOSSLESS = (
    (_TEXTS, _TEXTS),
    (_BYTES, _BYTES),
    ((pa.types.is_integer,), (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)),
    ((pa.types.is_floating,), (pa.types.is_floating,)),
    ((pa.types.is_decimal,), (pa.types.is_decimal,)),
    ((pa.types.is_timestamp,), (pa.types.is_timestamp,)),
    ((pa.types.is_date,), (pa.types.is_date,)),
    ((pa.types.is_time,), (pa.types.is_time,)),
    ((pa.types.is_boolean,), (pa.types.is_boolean,)),
)
"""Kinds of request types, and kinds of log types that they convert to without loss."""


def read(body: bytes, columns: pa.Schema, user: str = "") -> RequestRows:
    """Read a request.

    Args:
        body: Arrow IPC stream. Columns that the model does not read are ignored.
        columns: Name and type of each column that the model reads.
        user: Column of the user, which may be absent; see `nightbid.scorer.rows.read`.

    Raises:
        CorruptDataError: The body is not such a stream, or a column has another type.
        MissingDataError: A column is missing.
        TooManyRowsError: There are more than `MOST_ROWS` rows, or `MOST_VALUES` values.
    """
    with _malformed():
        return _asked(_open(body), columns, user)


def read_rank(
    body: bytes, columns: pa.Schema, user: str = ""
) -> tuple[RequestRows, dict[str, Any]]:
    """Read a request to rank: rows with one bid each, and an auction.

    Args:
        body: Arrow IPC stream. Its column `nb_bid` holds the bids, its optional column `nb_id` the
            ids; the schema's metadata may hold `auction`, as JSON.
        columns: Name and type of each column that the model reads.
        user: See `read`.

    Returns:
        The rows, and the argument `request` of `nightbid.scorer.auction.ranked`.

    Raises:
        DataError: The request is invalid; see `read`.
    """
    with _malformed():
        table = _open(body)
        others: dict[str, Any] = {"auction": _metadata(table.schema, "auction")}
        for name, key in ((BID, "bids"), (ID, "ids")):
            if name in table.column_names:
                for chunk in table[name].chunks:
                    _largest(chunk)
                    chunk.validate(full=True)
                others[key] = table[name].to_pylist()
        if BID not in table.column_names:
            raise MissingDataError(
                f"column {BID!r} is missing", where="body", hint="send the bid of each row in it"
            )
        names = [name for name in table.column_names if name not in (BID, ID)]
        return _asked(table.select(names), columns, user), others


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except _MALFORMED as error:
        line = " ".join(str(error).split())
        raise CorruptDataError(f"not Arrow: {line:.120}", where="body", hint=_HINT) from error


_MALFORMED = (
    pa.ArrowException, OSError, ValueError, LookupError, OverflowError, SystemError, struct.error,
)  # fmt: skip
"""Errors for streams that are truncated or damaged, have repeated or invalid names, and so on."""


def _asked(table: pa.Table, columns: pa.Schema, user: str) -> RequestRows:
    context = _metadata(table.schema, "context")
    shared: dict[str, pa.Array] = {}
    own: dict[str, pa.Array] = {}
    for field in columns:
        if field.name in table.column_names:
            column = _column(table[field.name], field)
            if _is_constant(column):
                shared[field.name] = column.slice(0, 1)
            else:
                own[field.name] = column
        elif field.name in context:
            shared[field.name] = shared_value(context[field.name], field)
        elif field.name == user and not is_spelled_otherwise(user, table.column_names):
            shared[field.name] = pa.nulls(1, field.type)
        else:
            raise MissingDataError(
                f"column {field.name!r} is missing",
                where="body",
                hint=f"add {field.name} ({field.type}) to the columns, or to the schema's"
                " metadata under `context`; null is a value too",
            )
    if not own:  # a table without columns has no rows either
        again = pa.nulls(len(table), pa.int64()).fill_null(0)
        own = {name: column.take(again) for name, column in shared.items()}
        shared = {}
    return RequestRows(pa.record_batch(shared), pa.record_batch(own))


def _open(body: bytes) -> pa.Table:
    _check_uncompressed(body)
    with pa.ipc.open_stream(body) as stream:
        batches, rows = [], 0
        for batch in stream:
            rows += batch.num_rows
            if rows > MOST_ROWS:
                raise TooManyRowsError(
                    f"more than {MOST_ROWS:,} rows", where="body", hint="send fewer at once"
                )
            batches.append(batch)
        return pa.Table.from_batches(batches, stream.schema)


def _metadata(schema: pa.Schema, name: str) -> dict[str, Any]:
    """Read an object from the schema's metadata; empty if it is missing."""
    text = (schema.metadata or {}).get(name.encode(), b"{}")
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise CorruptDataError(f"not JSON: {error}", where=name, hint=_HINT) from error
    if not isinstance(value, dict):
        raise CorruptDataError("not an object", where=name, hint=_HINT)
    return value


def _column(values: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    try:
        for chunk in values.chunks:
            if _largest(chunk) > MOST_VALUES:
                raise TooManyRowsError(
                    f"more than {MOST_VALUES:,} values", where=field.name, hint="send fewer at once"
                )
            chunk.validate(full=True)
        column = pa.concat_arrays(values.chunks) if values.chunks else pa.array([], values.type)
        if column.type == field.type:
            return column
        if not is_same_kind(column.type, field.type):
            raise CorruptDataError(
                f"{column.type} is not the type of {field.name!r}, which is {field.type}",
                where="body",
                hint="send the same type as in the logs",
            )
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_dictionary(field.type):
            return column.cast(field.type.value_type).dictionary_encode().cast(field.type)
        return column.cast(field.type)
    except (pa.ArrowException, ValueError) as error:
        line = " ".join(str(error).split())
        raise CorruptDataError(
            f"{field.name!r} is not {field.type}: {line:.120}",
            where="body",
            hint="send the same type as in the logs",
        ) from error


def is_same_kind(given: pa.DataType, logged: pa.DataType) -> bool:
    """Return whether values of one type convert to the other type unchanged.

    Args:
        given: Type of a request's column.
        logged: Type of the column in the logs.
    """
    if given == logged or pa.types.is_null(given):
        return True
    if pa.types.is_dictionary(given):
        return is_same_kind(given.value_type, logged)
    if pa.types.is_dictionary(logged):
        return is_same_kind(given, logged.value_type)
    if any(test(given) for test in LISTS) and any(test(logged) for test in LISTS):
        inner = given.value_type
        return not pa.types.is_dictionary(inner) and is_same_kind(inner, logged.value_type)
    if pa.types.is_floating(given) and pa.types.is_floating(logged):
        return bool(given.bit_width <= logged.bit_width)
    if pa.types.is_timestamp(given) and pa.types.is_timestamp(logged):
        return bool((given.tz is None) == (logged.tz is None))
    return any(
        any(test(given) for test in request_tests) and any(test(logged) for test in logged_tests)
        for request_tests, logged_tests in _LOSSLESS
    )


def _largest(array: pa.Array) -> int:
    """Return the largest length of an array or an array nested in it, as some need no bytes."""
    inner = []
    if any(test(array.type) for test in LISTS):
        inner.append(array.values)
    elif pa.types.is_dictionary(array.type):
        inner.append(array.dictionary)
    elif pa.types.is_nested(array.type) or pa.types.is_run_end_encoded(array.type):
        raise CorruptDataError(
            f"columns of type {array.type} are not supported", where="body", hint=_HINT
        )
    return max([len(array), *map(_largest, inner)])


def _is_constant(column: pa.Array) -> bool:
    """Return whether all rows repeat one value, which then needs only one lookup."""
    kind = column.type
    if len(column) < 2 or not (pa.types.is_integer(kind) or any(test(kind) for test in _TEXTS)):
        return False
    if column.null_count:
        return bool(column.null_count == len(column))
    return bool(pc.all(pc.equal(column, column[0])).as_py())


def _check_uncompressed(body: bytes) -> None:
    """Reject compressed buffers: a small body could expand to any amount of memory."""
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if message.type in ("record batch", "dictionary") and _is_compressed(
            message.metadata.to_pybytes(), is_dictionary=message.type == "dictionary"
        ):
            raise ValueError("compressed buffers")


def _is_compressed(message: bytes, *, is_dictionary: bool) -> bool:
    """Return whether the header of a message names a compression; see Arrow's Message.fbs."""
    root = struct.unpack_from("<I", message, 0)[0]
    batch = _table(message, root, 2)  # Message.header
    if batch and is_dictionary:
        batch = _table(message, batch, 1)  # DictionaryBatch.data
    return bool(batch and _table(message, batch, 3))  # RecordBatch.compression


def _table(message: bytes, at: int, field: int) -> int:
    """Return the offset of the table that a field of another table refers to, or 0 for none."""
    vtable = at - struct.unpack_from("<i", message, at)[0]
    size = struct.unpack_from("<H", message, vtable)[0]
    slot = 4 + 2 * field
    if slot >= size:
        return 0
    offset = struct.unpack_from("<H", message, vtable + slot)[0]
    if not offset:
        return 0
    return int(at + offset + struct.unpack_from("<I", message, at + offset)[0])
