"""Fields of objects (structs) as columns, such as `user.id`."""

from __future__ import annotations

import pyarrow as pa

from nightbid.errors import CorruptDataError


def flat_schema(schema: pa.Schema) -> pa.Schema:
    """Name the fields of objects; reading the names checks that Arrow can decode them."""
    _ = schema.names
    return flat(schema.empty_table()).schema


def _has_objects(schema: pa.Schema) -> bool:
    return any(pa.types.is_struct(field.type) for field in schema)


def flat(table: pa.Table) -> pa.Table:
    """Flatten the fields of objects to columns at any depth: `{"user": {"id": 7}}` is `user.id`."""
    own = table.column_names
    while _has_objects(table.schema):
        table = table.flatten()
    names = table.column_names
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})[0]
        of_object = "" if own.count(twice) > 1 else ", one of them the field of an object"
        raise CorruptDataError(
            f"two columns are called {twice!r}{of_object}", hint="rename one of them in the logs"
        )
    return table
