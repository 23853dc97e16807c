"""Streams of `kind: events` that share a folder: `only` selects their rows."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from nightbid.data.source import open_source
from nightbid.errors import MissingDataError
from nightbid.schema import REASON, TEXT

from .event_logs import DAY, at, joined, put, spec_of


@pytest.fixture
def mixed(logs, tmp_path):
    """Write all events of `logs` into one folder, with rows of other kinds and without a kind."""
    folder = tmp_path / "mixed"
    for day in (DAY - timedelta(days=1), DAY, DAY + timedelta(days=1)):
        parts = []
        for kind, name in ((1, "impressions"), (2, "clicks"), (3, "conversions")):
            if (path := logs / name / f"dt={day}" / "part-00000.parquet").exists():
                rows = pq.read_table(path)
                parts.append(rows.append_column("kind", pa.array([kind] * len(rows))))
        if day == DAY:
            parts.append(pa.table({"kind": [9], "time": [at(4)]}))
            parts.append(pa.table({"kind": pa.nulls(1, pa.int64()), "impression_id": ["b"],
                                   "time": [at(4)]}))  # fmt: skip
        put(
            folder,
            "",
            day,
            **dict(table_columns(pa.concat_tables(parts, promote_options="default"))),
        )
    return folder


def table_columns(table: pa.Table):
    return zip(
        table.column_names, [column.combine_chunks() for column in table.columns], strict=True
    )


def test_one_folder_of_all_events_is_joined_as_three_folders(logs, mixed, tmp_path):
    def source(**only) -> dict:
        return {"kind": "events", **{name: {"folder": str(mixed), "only": {"kind": kind}}
                                     for name, kind in only.items()}}  # fmt: skip

    rows, aside, figures = joined(logs, tmp_path)
    spec = spec_of(source(impressions=1, clicks=[2], conversions="3"))
    logs_of_all = open_source(spec.source, tmp_path, (DAY,))
    table = pa.Table.from_batches(list(logs_of_all.batches(DAY)))
    is_good = pc.is_null(table[REASON])
    joined_columns = ["impression_id", "clicked", "clicks", "click_time", "converted"]
    assert table.filter(is_good).select(joined_columns).to_pylist() == [
        {name: row[name] for name in joined_columns} for row in rows.values()
    ]
    of_mixed = table.filter(pc.invert(is_good)).select([REASON, TEXT]).to_pylist()
    without_kind = {REASON: "a row without kind, so its kind of event is unknown", TEXT: "b"}
    assert sorted(of_mixed, key=str) == sorted([*aside, without_kind], key=str)
    assert logs_of_all.figures(DAY) == figures


def test_rows_without_a_kind_are_set_aside_by_the_first_stream_of_their_folder(
    logs, mixed, tmp_path
):
    source = {
        "kind": "events",
        "impressions": str(logs / "impressions"),
        "clicks": {"folder": str(mixed), "only": {"kind": 2}},
        "conversions": {"folder": str(mixed), "only": {"kind": 3}},
    }
    logs_of_both = open_source(spec_of(source).source, tmp_path, (DAY,))
    table = pa.Table.from_batches(list(logs_of_both.batches(DAY)))
    reasons = table.filter(pc.is_valid(table[REASON])).select([REASON, TEXT]).to_pylist()
    without_kind = {REASON: "a row without kind, so its kind of event is unknown", TEXT: "b"}
    assert reasons.count(without_kind) == 1
    assert logs_of_both.figures(DAY)["clicks_unreadable"] == 2  # the other one has no id


def test_a_misspelled_kind_is_reported_with_the_kinds_of_the_day(mixed, tmp_path):
    for wrong in ({"impressions": "imp", "clicks": 2}, {"impressions": 1, "clicks": "klick"}):
        source = {"kind": "events", **{name: {"folder": str(mixed), "only": {"kind": kind}}
                                       for name, kind in wrong.items()}}  # fmt: skip
        spec = spec_of(source)
        message = rf"no row has kind: {'imp' if wrong['clicks'] == 2 else 'klick'}; there are '"
        with pytest.raises(MissingDataError, match=message) as error:
            list(open_source(spec.source, tmp_path, (DAY,)).batches(DAY))
        assert "'9' (1)" in str(error.value)
        assert "only" in str(error.value)
