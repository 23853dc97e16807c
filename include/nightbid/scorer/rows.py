"""Parse the JSON of a request into the raw rows that a bundle scores.

The bundle defines which columns it reads and their types in the logs. A value of another type is
rejected with an error that names it, never converted: a number converted to a string could be
another ad.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow as pa

from nightbid.errors import CorruptDataError, DataError, MissingDataError
from nightbid.serving.json_values import WRONG, from_json

MOST_ROWS = 16_384
"""Maximum number of rows per request."""
MOST_VALUES = 1 << 20
"""Maximum number of JSON values per request. Each takes about 100 bytes when parsed."""

COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x9c", b"\x78\x01", b"\x78\xda")
"""First bytes of gzip, zstd and zlib (`deflate`)."""


class TooManyRowsError(DataError):
    """Raised for a request that is too large and should be split."""


@dataclass(frozen=True)
class RequestRows:
    """Rows of a request: values shared by all rows are stored once."""

    shared: pa.RecordBatch
    """One row; has no columns if no values are shared."""
    rows: pa.RecordBatch
    """[rows] the other columns."""

    def table(self, columns: pa.Schema) -> pa.Table:
        """Combine both into whole rows with the columns of `columns`, in that order."""
        again = pa.array(np.zeros(len(self.rows), np.int64))
        return pa.table(
            {
                name: self.rows[name]
                if name in self.rows.column_names
                else self.shared[name].take(again)
                for name in columns.names
            }
        )


class Wire(msgspec.Struct, forbid_unknown_fields=True):
    """A request with its values still encoded as JSON."""

    rows: list[msgspec.Raw]
    context: dict[str, msgspec.Raw] = {}


class RankWire(Wire, forbid_unknown_fields=True):
    """A request to rank, with the keys of an auction; empty if missing."""

    bids: msgspec.Raw = msgspec.Raw()
    ids: msgspec.Raw = msgspec.Raw()
    auction: msgspec.Raw = msgspec.Raw()

    def others(self) -> dict[str, Any]:
        """Decode everything except rows and context."""
        fields = {"bids": self.bids, "ids": self.ids, "auction": self.auction}
        return {name: orjson.loads(raw) for name, raw in fields.items() if bytes(raw)}


def parse(body: bytes, columns: pa.Schema, user: str = "") -> pa.Table:
    """Parse the body of a request into whole rows; see `read`."""
    return read(load(body, columns), columns, user=user).table(columns)


def load(body: bytes, columns: pa.Schema) -> dict[str, Any]:
    """Parse the body of a request as JSON.

    Args:
        body: Body of the request.
        columns: Names and types of the columns that the model reads.

    Raises:
        CorruptDataError: The body is not JSON, or not an object.
        TooManyRowsError: It holds more values than `MOST_VALUES`.
    """
    if len(body) > MOST_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise TooManyRowsError(
            f"more than {MOST_VALUES:,} values", where="body", hint="send fewer rows at once"
        )
    try:
        # A decimal may have more digits than orjson's 64-bit numbers.
        exact = any(pa.types.is_decimal(kind) for kind in columns.types)
        request = json.loads(body) if exact else orjson.loads(body)
    except (ValueError, RecursionError):
        # Python's own parser also reads NaN, lone surrogates and integers of any size.
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            if body.startswith(COMPRESSED):
                raise CorruptDataError(
                    "compressed", where="body", hint="send it without Content-Encoding"
                ) from error
            raise CorruptDataError(f"not JSON: {error}", where="body", hint=_SHAPE) from error
    if not isinstance(request, dict):
        raise CorruptDataError("not a list of rows", where="body", hint=_SHAPE)
    return request


def read(
    request: dict[str, Any],
    columns: pa.Schema,
    others: Set[str] = frozenset(),
    *,
    user: str = "",
) -> RequestRows:
    """Read a request.

    ::

        {"rows": [{"ad_id": 17, …}, {"ad_id": 4, …}]}
        {"context": {"user_id": 5, …}, "rows": [{"ad_id": 17}, {"ad_id": 4}]}

    Args:
        request: Parsed JSON; `context` holds values that all rows share. Columns that the model
            does not read are ignored.
        columns: Name and type of each column that the model reads.
        others: Allowed keys in addition to `rows` and `context`.
        user: Column of the user. It may be absent, unless the row has another spelling of its
            name: such a row has no user.

    Raises:
        CorruptDataError: The request has another structure, or a value has another type.
        MissingDataError: A row lacks a column.
        TooManyRowsError: There are more than `MOST_ROWS` rows.
    """
    rows, context = request.get("rows"), request.get("context", {})
    if not isinstance(rows, list):
        raise CorruptDataError("not a list of rows", where="body", hint=_SHAPE)
    if not isinstance(context, dict):
        raise CorruptDataError(
            f"{_short(context)} is not an object", where="context", hint="send {} or leave it out"
        )
    if unknown := sorted(request.keys() - {"rows", "context"} - others):
        raise CorruptDataError(f"unknown key {unknown[0]!r}", where="body", hint=_SHAPE)
    if len(rows) > MOST_ROWS:
        raise TooManyRowsError(
            f"{len(rows):,} rows", where="rows", hint=f"send at most {MOST_ROWS:,} at once"
        )
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise CorruptDataError(
                f"{_short(row)} is not an object", where=f"rows[{at}]", hint=_SHAPE
            )
    in_rows = set[str]().union(*rows)
    shared: dict[str, pa.Array] = {}
    own: dict[str, pa.Array] = {}
    for field in columns:
        name = field.name
        if name in context and name not in in_rows:
            shared[name] = _array([context[name]], field.type, name, "context")
        else:
            values = _values(field, context, rows, user)
            if _is_constant(values):
                shared[name] = _array(values[:1], field.type, name, "rows[{}]")
            else:
                own[name] = _array(values, field.type, name, "rows[{}]")
    if not own:  # a table without columns has no rows either
        again = pa.array(np.zeros(len(rows), np.int64))
        own = {name: column.take(again) for name, column in shared.items()}
        shared = {}
    return RequestRows(pa.record_batch(shared), pa.record_batch(own))


_SHAPE = 'send {"rows": [{column: value, …}, …]}, and what all rows share in "context"'


def _values(
    field: pa.Field, context: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], user: str
) -> list[Any]:
    name, kind = field.name, field.type
    try:
        return [row[name] for row in rows]
    except KeyError:  # some rows lack the column; the context may have it
        values = list[Any]()
    for at, row in enumerate(rows):
        if name not in row and name not in context:
            if name == user and not is_spelled_otherwise(name, row):
                values.append(None)
                continue
            close = difflib.get_close_matches(name, row, n=1)
            raise MissingDataError(
                f"column {name!r} is missing",
                where=f"rows[{at}]",
                hint=f"did you mean {close[0]!r}?"
                if close
                else f"add {name} ({kind}) to the row or the context; null is a value too",
            )
        values.append(row.get(name, context.get(name)))
    return values


def is_spelled_otherwise(name: str, names: Iterable[str]) -> bool:
    """Return whether names contain another spelling of a name, such as userId for user_id."""
    return _letters(name) in map(_letters, names)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def _is_constant(values: list[Any]) -> bool:
    """Return whether all rows repeat one value, which then needs only one lookup."""
    if len(values) < 2 or type(values[0]) not in (str, int, type(None)):
        return False  # 0.0 equals -0.0, but they are different numbers
    kind = type(values[0])
    return values.count(values[0]) == len(values) and all(type(value) is kind for value in values)


def shared_value(value: Any, field: pa.Field) -> pa.Array:
    """Convert a value of the context to a column with one row.

    Raises:
        CorruptDataError: The value does not have the column's type.
    """
    return _array([value], field.type, field.name, "context")


def _array(values: list[Any], kind: pa.DataType, name: str, where: str) -> pa.Array:
    try:
        return from_json(values, kind)
    except WRONG:
        for at, value in enumerate(values):
            try:
                from_json([value], kind)
            except WRONG as error:
                raise CorruptDataError(
                    f"{_short(value)} is not a value of {name!r}, which is {kind}",
                    where=where.format(at),
                    hint="send the same type as in the logs"
                    + ("; times as ISO 8601" if pa.types.is_temporal(kind) else "")
                    + ("; integers beyond 64 bits are text there" if _has_long(value) else ""),
                ) from error
        raise


def _has_long(value: Any) -> bool:
    """Whether a value is, or a list has, a number that no column of integers holds."""
    if isinstance(value, list):
        return any(map(_has_long, value))
    return isinstance(value, int | float) and abs(value) >= 2**63


def _short(value: Any) -> str:
    # JSON may contain a lone surrogate, which cannot be encoded.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    return text if len(text) <= 60 else text[:59] + "…"
