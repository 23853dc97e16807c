"""Copied encoded columns: the file equals the one that Arrow writes of all columns at once."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.errors import CorruptDataError
from nightbid.featurize.column_chunks import write_with_columns_of
from nightbid.featurize.groups import encode_rows
from nightbid.featurize.thrift import ThriftReader, encoded

LARGEST_GROUP = 1 << 20
"""Maximum number of rows of a row group, unless Parquet's writer is told otherwise."""


def column(kind: str, rows: int, seed: int) -> pa.Array:
    draw = np.random.default_rng(seed)
    if kind == "time":
        return pa.array(draw.integers(0, 2**50, rows)).cast(pa.timestamp("us", "UTC"))
    if kind == "float":
        return pa.array(draw.normal(size=rows).astype(np.float32))
    if kind == "key":
        return pa.array(draw.integers(-(2**62), 2**62, rows))
    if kind == "list":
        return pa.FixedSizeListArray.from_arrays(
            pa.array(draw.integers(0, 9, 3 * rows).astype(np.int32)), 3
        )
    return pa.array(draw.integers(0, 90, rows).astype(np.int32))


def once(table: pa.Table) -> bytes:
    written = io.BytesIO()
    encode_rows(table, written)
    return written.getvalue()


COLUMNS = st.lists(
    st.tuples(st.sampled_from(["time", "float", "key", "list", "id"]),
              st.sampled_from(["kept", "new", "changed", "removed"])),
    min_size=1, max_size=20,
)  # fmt: skip


@settings(max_examples=60)
@given(columns=COLUMNS, rows=st.integers(1, 400), order=st.randoms(use_true_random=False))
def test_copied_columns_give_the_bytes_of_writing_all_columns_at_once(
    tmp_path: Path, columns, rows, order
) -> None:
    """Columns are unchanged, added, changed or removed, in any order."""
    current = {f"c{n}": column(kind, rows, n) for n, (kind, _) in enumerate(columns)}
    fate = {f"c{n}": change for n, (_, change) in enumerate(columns)}
    before = {
        name: column(columns[n][0], rows, n + 99) if fate[name] == "changed" else values
        for n, (name, values) in enumerate(current.items())
        if fate[name] != "new"
    } or {"other": column("id", rows, 1)}
    base = tmp_path / "base.parquet"
    base.write_bytes(once(pa.table(before)))
    names = [name for name in current if fate[name] != "removed"]
    order.shuffle(names)
    whole = pa.table({name: current[name] for name in names})
    new = whole.select([name for name in names if fate[name] in ("new", "changed")])
    if not names:
        return
    write_with_columns_of(base, new, whole.schema, tmp_path / "target.parquet")
    assert (tmp_path / "target.parquet").read_bytes() == once(whole)


def test_copied_columns_keep_several_row_groups(tmp_path: Path) -> None:
    """Parquet's writer splits a row group of the sample that is too large for it."""
    rows = LARGEST_GROUP + 100
    whole = pa.table({f"c{n}": column("list" if n == 2 else "id", rows, n) for n in range(4)})
    (tmp_path / "base.parquet").write_bytes(once(whole.select(["c2", "c0", "c3"])))
    target = tmp_path / "target.parquet"
    write_with_columns_of(tmp_path / "base.parquet", whole.select(["c1"]), whole.schema, target)
    assert target.read_bytes() == once(whole)
    assert pq.read_metadata(target).num_row_groups == 2


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "rows", "columns", "dictionary"])
def test_a_base_file_of_other_rows_is_rejected_in_one_line(tmp_path: Path, kind: str) -> None:
    table = pa.table({"a": column("id", 90, 1), "b": column("float", 90, 2)})
    base = tmp_path / "base.parquet"
    base.write_bytes(once(table))
    if kind == "cut":
        base.write_bytes(once(table)[:-3])
    elif kind == "text":
        base.write_text("no Parquet file, but some text")
    elif kind == "empty":
        base.write_bytes(b"")
    elif kind == "rows":
        base.write_bytes(once(table.slice(0, 89)))
    elif kind == "columns":
        base.write_bytes(once(table.select(["b"])))
    else:
        pq.write_table(table, base)
    new = pa.table({"c": column("float", 90, 3)})
    schema = pa.schema([*table.schema, *new.schema])
    with pytest.raises(CorruptDataError, match="not a file of these featurized rows") as error:
        write_with_columns_of(base, new, schema, tmp_path / "target.parquet")
    assert error.value.where == str(base)
    assert "\n" not in str(error.value)


def test_a_parquet_footer_round_trips(tmp_path: Path) -> None:
    table = pa.table({"a": [1.5, None], "b": ["x", "y"], "c": [[1], [2, 3]], "d": [True, False]})
    path = tmp_path / "a.parquet"
    pq.write_table(
        table.replace_schema_metadata({"some": "note"}), path, version="1.0", write_page_index=True,
        sorting_columns=[pq.SortingColumn(0)], row_group_size=1,
    )  # fmt: skip
    data = path.read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    assert encoded(ThriftReader(footer).fields()) == footer
