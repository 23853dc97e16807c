"""`nightbid data check` finds the label, and what would reveal it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import yaml
from nightbid.config.load import load_pipeline
from nightbid.errors import MissingDataError

from .checked import ROWS, check, write


def test_a_time_column_with_few_values_becomes_the_label(tmp_path):
    folder = write(tmp_path / "logs", change=lambda table: table.drop_columns(["is_click"]))
    path = tmp_path / "first.yaml"
    assert "label    clicked_at: rate 0.1" in check(folder, "--write", path)
    spec = load_pipeline(path)
    assert (spec.label.column, spec.label.positive) == ("clicked_at", "known")
    assert spec.label.event_time == "clicked_at"
    assert "dwell" in spec.source.outcomes


def test_a_column_that_reveals_the_label_is_a_suspected_leak(tmp_path):
    def change(table):
        noise = np.random.default_rng(1).random(ROWS)
        return table.append_column("score", pa.array(np.asarray(table["is_click"]) + noise))

    report = json.loads(check(write(tmp_path / "logs", change=change), "--json"))
    assert "suspected leak" in report["outcomes"]["score"]


def test_clicks_logged_again_with_their_impression_are_reported(tmp_path):
    def change(table: pa.Table) -> pa.Table:
        table = table.drop_columns(["dwell", "clicked_at"])
        click = table["is_click"].to_numpy().copy()
        late = click & (np.arange(len(table)) % 2 == 0)
        place = table.column_names.index("is_click")
        shown = table.set_column(place, "is_click", pa.array(click & ~late))
        again.append(int(late.sum()))
        return pa.concat_tables([shown, table.filter(pa.array(late))])

    again: list[int] = []
    report = json.loads(check(write(tmp_path / "logs", 3, change), "--json"))
    assert report["repeated_keys"] == report["repeated_positives"] == sum(again)
    assert "the earlier row, which is kept, does not: join clicks" in check(tmp_path / "logs")


def test_an_amount_becomes_the_label_without_a_binary_column(tmp_path):
    def watched(table: pa.Table) -> pa.Table:
        seconds = pa.array(np.random.default_rng(1).gamma(1, 20, ROWS).round(1))
        return table.select(
            ["request_id", "servedAt", "uid", "creative_id", "device"]
        ).append_column("watch_seconds", seconds)

    folder, path = write(tmp_path / "logs", change=watched), tmp_path / "watch.yaml"
    check(folder, "--write", path)
    spec = load_pipeline(path)
    assert (spec.label.kind, spec.label.column) == ("value", "watch_seconds")
    assert "watch_seconds" not in spec.features
    printed = check(write(tmp_path / "both", change=lambda table: table.append_column(
        "revenue", pa.array(np.linspace(0, 3, ROWS)))))  # fmt: skip
    assert "label    is_click: rate" in printed
    assert "label: {kind: value, column: revenue} predicts it" in printed


def test_a_flag_with_a_value_only_for_clicks_becomes_the_label(tmp_path):
    def change(table: pa.Table) -> pa.Table:
        clicked = pa.array(
            [("1" if clicked else None) for clicked in table["is_click"].to_pylist()]
        )
        return table.drop_columns(["is_click", "clicked_at", "dwell"]).append_column(
            "clicked", clicked
        )

    path = tmp_path / "first.yaml"
    check(write(tmp_path / "logs", change=change), "--write", path)
    spec = load_pipeline(path)
    assert (spec.label.column, spec.label.positive) == ("clicked", "known")
    assert spec.label.event_time is None
    assert "clicked" not in spec.features


def test_an_event_column_of_two_words_is_suggested_as_label_not_feature(tmp_path):
    def change(table: pa.Table) -> pa.Table:
        events = np.where(table["is_click"].to_numpy(), "click", "view")
        return table.drop_columns(["is_click", "clicked_at", "dwell"]).append_column(
            "event", pa.array(events)
        )

    path = tmp_path / "first.yaml"
    with pytest.raises(MissingDataError, match=r"'event' holds 'view' and 'click'.*label\.texts"):
        check(write(tmp_path / "logs", change=change), "--write", path)
    assert "event (may be the label)" in path.read_text()
    assert "event" not in yaml.safe_load(path.read_text())["features"]
    # The draft runs after the label is filled in as the message says.
    label = 'label: {column: event, texts: {"click": 1, "view": 0}}'
    path.write_text(path.read_text().replace("# label:", label, 1))
    assert load_pipeline(path).label.texts == {"click": 1, "view": 0}


def test_sums_of_impressions_and_texts_of_amounts_are_reported(tmp_path):
    def change(table: pa.Table) -> pa.Table:
        draw = np.random.default_rng(2)
        prices = [f"${price:,.2f}" for price in draw.permutation(ROWS) * 7.01 + 1000]
        shares = [f"{share:.1f}%" for share in draw.uniform(0, 9, ROWS)]
        table = table.select(["servedAt", "uid", "creative_id", "device"])
        table = table.append_column("clicks", pa.array(draw.integers(0, 6, ROWS)))
        table = table.append_column("bid_price", pa.array(prices))
        return table.append_column("discount", pa.array(shares))

    path = tmp_path / "first.yaml"
    with pytest.raises(MissingDataError, match=r"'clicks' holds numbers up to 5: write one row"):
        check(write(tmp_path / "logs", change=change), "--write", path)
    text = path.read_text()
    assert "bid_price (numbers with $: write them as plain numbers)" in text
    assert "discount (numbers with %: write them as plain numbers)" in text
    draft = yaml.safe_load(text)
    # Prices that differ in every row are no key, and two devices are no label.
    assert draft["source"]["make_key"] == "impression_id"
    assert "device" in draft["features"]
    assert "clicks" not in draft["features"]
