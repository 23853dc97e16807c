"""iPinYou's raw logs as published: impressions with clicks, and prices for a replay."""

from __future__ import annotations

import bz2
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.data.ipinyou import NAMES
from nightbid.data.source import open_source
from nightbid.errors import MissingDataError
from nightbid.sampling.rows import parse
from nightbid.schema import KEY, LABEL, REASON, TIME

DAY = date(2013, 6, 6)


def line(number: int, kind: str = "1", user: str = "") -> str:
    fields = dict.fromkeys(NAMES, "null") | {
        "bid_id": f"bid{number:04d}", "timestamp": f"20130606{number % 24:02d}0000123",
        "log_type": kind, "ipinyou_id": user or f"user{number % 7}", "region": "216",
        "slot_width": "300", "slot_height": "250", "slot_floor_price": "5",
        "creative_id": f"c{number % 3}", "bidding_price": "300", "paying_price": str(50 + number),
        "advertiser_id": "1458", "user_tags": "10006,10063",
    }  # fmt: skip
    return "\t".join(fields[name] for name in NAMES)


def logs(folder: Path, clicks: list[str]) -> PipelineSpec:
    impressions = [line(number) for number in range(40)]
    impressions[3] = line(3, user="null")
    for name, lines in (("imp", impressions), ("clk", clicks)):
        text = "".join(f"{fields}\n" for fields in lines)
        (folder / f"{name}.20130606.txt.bz2").write_bytes(bz2.compress(text.encode()))
    return PipelineSpec.model_validate(
        {
            "pipeline": "ipinyou",
            "source": {"kind": "csv", "folder": str(folder), "layout": "ipinyou"},
            "features": {"region": "vocabulary", "user_tags": "bag"},
            "replay": {"value": 30.0},
        }
    )


def read(spec: PipelineSpec, folder: Path) -> pa.Table:
    source = open_source(spec.source, folder, [DAY])
    return pa.Table.from_batches(list(source.batches(DAY)))


def test_ipinyou_clicks_prices_and_times_are_mapped_to_their_roles(tmp_path: Path) -> None:
    spec = logs(tmp_path, [line(2, "2"), line(5, "2"), line(5, "2")])
    assert (spec.columns.price, spec.columns.bid, spec.columns.floor, spec.columns.item) == (
        "paying_price", "bidding_price", "slot_floor_price", "creative_id",
    )  # fmt: skip
    parsed = parse(read(spec, tmp_path), spec, {}, "the day")
    assert (len(parsed.good), len(parsed.aside)) == (40, 0)
    rows = parsed.good
    clicked = rows.filter(pc.equal(rows[LABEL], 1))
    assert clicked["impression_id"].to_pylist() == ["bid0002", "bid0005"]
    assert rows["paying_price"].to_pylist() == list(range(50, 90))
    assert rows["user_id"].to_pylist()[2:4] == ["user2", "bid0003"]
    assert str(rows[TIME][7]) == "2013-06-06 07:00:00.123000+00:00"
    assert len(set(rows[KEY].to_pylist())) == 40


def test_a_click_without_an_impression_is_set_aside_and_counted(tmp_path: Path) -> None:
    spec = logs(tmp_path, [line(2, "2"), line(900, "2")])
    parsed = parse(read(spec, tmp_path), spec, {}, "the day")
    assert (len(parsed.good), parsed.positives, parsed.aside_positives) == (40, 1, 1)
    assert parsed.aside[REASON].to_pylist() == ["a click without an impression"]


def test_a_day_without_a_click_log_is_refused(tmp_path: Path) -> None:
    spec = logs(tmp_path, [])
    (tmp_path / "clk.20130606.txt.bz2").unlink()
    with pytest.raises(MissingDataError, match="impressions and no click log"):
        read(spec, tmp_path)
