"""Checks of Avro schemas that keep a few bytes from standing for an unlimited number of rows."""

from __future__ import annotations

from typing import Any

from nightbid.errors import CorruptDataError

NOTHING = "a block of a few bytes may then claim any number of rows"


def check_avro(schema: Any) -> None:
    """Reject a schema with zero-byte types that may repeat, or with types that contain themselves.

    Args:
        schema: The file's schema, as parsed by fastavro.

    Raises:
        CorruptDataError: The schema has such a type.
    """
    named: dict[str, Any] = {}
    if not _least_bytes(schema, named, ()):
        raise CorruptDataError(f"its rows take no bytes: {NOTHING}", hint="leave the file out")


def _least_bytes(schema: Any, named: dict[str, Any], inside: tuple[str, ...]) -> int:
    """Minimum encoded size of a value: 0 or 1, where 1 means at least one byte."""
    if isinstance(schema, list):
        for branch in schema:
            _least_bytes(branch, named, inside)
        return 1  # the index of the branch
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, (dict, list)):
        return _least_bytes(kind, named, inside)
    if kind in ("record", "error"):
        name = str(schema["name"])
        named[name] = schema
        sizes = [_least_bytes(field["type"], named, (*inside, name)) for field in schema["fields"]]
        return int(any(sizes))
    if kind == "array":
        if not _least_bytes(schema["items"], named, inside):
            raise CorruptDataError(
                f"a list of it has values that take no bytes: {NOTHING}", hint="leave it out"
            )
        return 1
    if kind == "map":
        _least_bytes(schema["values"], named, inside)
        return 1
    if kind in ("fixed", "enum"):
        named[str(schema["name"])] = schema
        return int(kind == "enum" or schema["size"] > 0)
    if kind in inside:
        raise CorruptDataError(
            f"the type {kind!r} contains itself, which no column can hold",
            hint="write a list instead",
        )
    return _least_bytes(named[kind], named, inside) if kind in named else int(kind != "null")
