"""Fields of objects (structs) as columns, such as `user.id`."""

from __future__ import annotations

import pyarrow as pa

from nightbid.errors import CorruptDataError


def flat_schema(schema: pa.Schema) -> pa.Schema:
    """Name the fields of objects; reading the names checks that Arrow can decode them."""
    _ = schema.names
    return flat(schema.empty_table()).schema if _has_objects(schema) else schema


def _has_objects(schema: pa.Schema) -> bool:
    return any(pa.types.is_struct(field.type) for field in schema)


def flat(table: pa.Table) -> pa.Table:
    """Flatten the fields of objects to columns at any depth: `{"user": {"id": 7}}` is `user.id`."""
    while _has_objects(table.schema):
        table = table.flatten()
        names = table.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise CorruptDataError(
                f"a field of an object and another column are both called {twice[0]!r}",
                hint="rename one of them in the logs",
            )
    return table
