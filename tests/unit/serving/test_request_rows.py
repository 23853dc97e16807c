"""A request's JSON carries every column type unchanged."""

from __future__ import annotations

import json
from datetime import UTC

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.scorer import rows

COLUMNS = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("price", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("when", pa.timestamp("us", "UTC")),
        ("naive", pa.timestamp("ms")),
        ("day", pa.date32()),
        ("known", pa.bool_()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
    ]
)
VALUES = {
    "id": st.integers(-(2**63), 2**63 - 1),
    "name": st.text(),
    "price": st.floats(allow_nan=False, allow_infinity=False),
    "tags": st.lists(st.none() | st.text(max_size=3), max_size=3),
    "when": st.datetimes(timezones=st.just(UTC)),
    "naive": st.datetimes().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    "day": st.dates(),
    "known": st.booleans(),
    "kind": st.text(max_size=2),
}
ROW = st.fixed_dictionaries({name: st.none() | strategy for name, strategy in VALUES.items()})


@settings(max_examples=50)
@given(st.lists(ROW, max_size=6), ROW)
def test_json_requests_preserve_values_of_every_type(found, context):
    def written(**body: object) -> bytes:
        return json.dumps(body, default=lambda value: value.isoformat()).encode()

    logged = pa.Table.from_pylist(found, schema=COLUMNS)
    assert rows.parse(written(rows=found), COLUMNS).equals(logged)
    shared = pa.Table.from_pylist([context] * len(found), schema=COLUMNS)
    assert rows.parse(written(context=context, rows=[{} for _ in found]), COLUMNS).equals(shared)
