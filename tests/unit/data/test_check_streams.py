"""`nightbid data check` drafts joins of impressions, clicks and conversions."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.load import load_pipeline
from nightbid.errors import MissingDataError

from .checked import FIRST, check, logs


def streams(folder, days: int = 5):
    """Write impressions, clicks and orders, each with its own column names."""
    for at in range(days):
        day = FIRST + timedelta(days=at)
        table = logs(day)
        yes = table["is_click"]
        clicks = table.select(["request_id", "clicked_at"]).filter(yes)
        clicks = clicks.rename_columns(["imp", "ts"])
        orders = clicks.slice(0, 20).append_column("amount_usd", pa.array(np.arange(20) * 2.5))
        shown = table.drop_columns(["dwell", "clicked_at", "is_click"])
        for name, rows in (("imps", shown), ("clicks", clicks), ("orders", orders)):
            (folder / name / f"dt={day}").mkdir(parents=True)
            pq.write_table(rows, folder / name / f"dt={day}" / "part.parquet")
    return folder


def test_data_check_drafts_a_join_of_impressions_clicks_and_conversions(tmp_path):
    path = tmp_path / "joined.yaml"
    printed = check(streams(tmp_path / "logs"), "--write", path)
    spec = load_pipeline(path)
    source = spec.source
    assert (source.kind, source.key, source.time) == ("events", "request_id", "servedAt")
    assert source.clicks.rename == {"imp": "request_id", "ts": "servedAt"}
    assert source.conversions.rename == {"imp": "request_id", "ts": "servedAt"}
    assert source.value == "amount_usd"
    assert (spec.label.column, spec.columns.user) == ("clicked", "uid")
    # The newest day's impressions do not have all their clicks yet.
    assert f"days     4, {FIRST} to {FIRST + timedelta(days=3)}" in printed
    assert "label    clicked: rate 0.1" in printed
    assert f"next: nightbid run joined --date {FIRST + timedelta(days=4)}" in printed


def test_one_folder_of_impressions_and_clicks_is_drafted_as_a_join(tmp_path):
    for at in range(5):
        day = FIRST + timedelta(days=at)
        table = logs(day)
        clicks = table.filter(table["is_click"]).select(["request_id", "clicked_at"])
        shown = table.drop_columns(["dwell", "clicked_at", "is_click"])
        parts = [
            rows.append_column("eventType", pa.array([kind] * len(rows)))
            for kind, rows in (
                ("AdImpression", shown),
                ("AdClick", clicks.rename_columns(["request_id", "servedAt"])),
                ("heartbeat", clicks.select(["request_id"]).slice(0, 3)),
            )
        ]
        (tmp_path / "in" / f"dt={day}").mkdir(parents=True)
        whole = pa.concat_tables(parts, promote_options="default")
        pq.write_table(whole, tmp_path / "in" / f"dt={day}" / "part.parquet")
    path = tmp_path / "joined.yaml"
    printed = check(tmp_path / "in", "--write", path)
    spec = load_pipeline(path)
    source = spec.source
    assert (source.kind, source.key, source.time) == ("events", "request_id", "servedAt")
    assert source.impressions.only == {"eventType": ("AdImpression",)}
    assert source.clicks.only == {"eventType": ("AdClick",)}
    assert source.conversions is None
    assert (spec.label.column, spec.columns.user) == ("clicked", "uid")
    assert "sample   1,800 rows" in printed


@pytest.mark.parametrize(
    ("click_id", "order_id", "event_key", "renamed"),
    [
        ("click_id", "", "click_id", {}),
        ("eventId", "eventId", "eventId", {}),
        ("click_id", "order_no", "event_id", {"click_id": "event_id", "order_no": "event_id"}),
        ("click_id", "click_id", "event_id", {"click_id": "event_id"}),  # orders name their click
        ("id", "", "id", {}),
        ("campaign_id", "", "", {}),  # not named like an event's own id
        ("request_id", "", "", {"request_id": "own_request_id"}),  # nor the impression's
    ],
)
def test_the_id_of_events_themselves_is_drafted(tmp_path, click_id, order_id, event_key, renamed):
    folder = streams(tmp_path / "logs")
    for name, column in (("clicks", click_id), ("orders", order_id)):
        for path in (folder / name).rglob("*.parquet") if column else ():
            rows = pq.read_table(path)
            own = pa.array([f"{path.parent.name}-{at}" for at in range(len(rows))])
            pq.write_table(rows.append_column(column, own), path)
    path = tmp_path / "joined.yaml"
    check(folder, "--write", path)
    source = load_pipeline(path).source
    assert source.event_key == event_key
    own = {*source.clicks.rename.items(), *source.conversions.rename.items()}
    assert own - {("imp", "request_id"), ("ts", "servedAt")} == set(renamed.items())


def test_streams_without_a_common_id_are_reported_in_one_line(tmp_path):
    folder = streams(tmp_path / "logs")
    for path in (folder / "clicks").rglob("*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(rows.set_column(0, "imp", pa.array(range(len(rows)))), path)
    with pytest.raises(
        MissingDataError, match="no column of the impressions occurs in every other stream"
    ) as error:
        check(folder)
    assert "clicks: imp, ts" in str(error.value)
    assert "\n" not in str(error.value)
