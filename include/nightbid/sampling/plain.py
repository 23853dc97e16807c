"""Plain types: one Arrow type for all the ways in which logs store the same value.

Files of different tools and days store the same text as string, dictionary, binary or string view,
and the same time in seconds or nanoseconds. Sampling converts every column to a plain type once, so
that profiles, gates, features and the scorer see few types, which are the same on every day.
"""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import readable_text, whole

LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def plain_table(table: pa.Table) -> pa.Table:
    """Convert every column to a plain type.

    Dictionaries become their values; binary, views, UUIDs, JSON and times of day become strings;
    half floats become float32; timestamps have microseconds, dates days; durations become integers
    in their own unit. Lists have plain items. Booleans, integers, floats, decimals, nulls, structs
    and maps are unchanged.

    Args:
        table: Table with columns of any type.

    Returns:
        The same rows, with the same names.
    """
    for at, field in enumerate(table.schema):
        if not _is_plain(field.type):
            table = table.set_column(at, field.name, plain_array(whole(table.column(at))))
    return table


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_timestamp(kind):
        return bool(kind.unit == "us")
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
        or pa.types.is_struct(kind)
        or pa.types.is_map(kind)
    )


def plain_array(array: pa.Array) -> pa.Array:
    """Convert one column; see `plain_table`."""
    kind = array.type
    if _is_plain(kind):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return _uuids(array)
        return plain_array(array.storage)
    if pa.types.is_dictionary(kind):
        # Convert the distinct items, which are few, not the rows.
        return plain_array(array.dictionary).take(array.indices)
    if pa.types.is_large_string(kind) or kind == pa.string_view():
        return array.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary(kind) or kind == pa.binary_view():
        return readable_text(array.cast(pa.binary()))
    if pa.types.is_fixed_size_binary(kind):
        return readable_text(array.cast(pa.binary()))
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_date64(kind):
        return array.cast(pa.date32())
    if pa.types.is_time(kind):
        # For example 19:30:00, whatever the unit; callers of the scorer send the same.
        return pc.replace_substring_regex(array.cast(pa.string()), r"\.0+$", "")
    if pa.types.is_duration(kind):
        return array.cast(pa.int64())
    if pa.types.is_run_end_encoded(kind):
        return plain_array(pc.run_end_decode(array))
    if any(test(kind) for test in LISTS):
        lists = array.cast(pa.list_(kind.value_type))
        if lists.offset:
            lists = lists.take(pa.array(range(len(lists))))  # offsets must begin at 0
        items = plain_array(lists.values)
        return pa.ListArray.from_arrays(
            lists.offsets, items, mask=pc.is_null(lists) if lists.null_count else None
        )
    return array


def _uuids(array: pa.Array) -> pa.Array:
    # As text in the usual notation, once per distinct value.
    encoded = array.storage.dictionary_encode()
    texts = [None if v is None else str(uuid.UUID(bytes=v)) for v in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)
