"""Runs `nightbid data check` on folders of logs that a test writes."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from nightbid.cli import data as cli
from typer.testing import CliRunner

FIRST = date(2026, 1, 5)


ROWS = 600


def logs(day: date, zone: str = "UTC") -> pa.Table:
    """Make a day of clicks with times, dwell times and columns without information."""
    draw = np.random.default_rng(day.toordinal())
    start = pd.Timestamp(day, tz=zone).tz_convert("UTC")
    served = start + pd.to_timedelta(np.sort(draw.integers(0, 86_400, ROWS)), unit="s")
    click = draw.random(ROWS) < 0.15
    after = served + pd.to_timedelta(draw.integers(1, 60, ROWS), unit="s")
    return pa.table(
        {
            "request_id": [f"{day}-{at:05d}" for at in range(ROWS)],
            "servedAt": pa.array(served.astype("datetime64[us, UTC]")),
            "uid": draw.integers(0, 90, ROWS),
            "creative_id": [f"c{at}" for at in draw.integers(0, 40, ROWS)],
            "slot": draw.integers(0, 4, ROWS),
            "price[usd]": np.round(draw.gamma(2, 1.5, ROWS), 2),
            "device": draw.choice(["phone", "desktop", "[/home] tv"], ROWS),
            "campaign": pa.nulls(ROWS, pa.string()),
            "dwell": pa.array(draw.integers(1, 90, ROWS), mask=~click),
            "clicked_at": pa.array(after.astype("datetime64[us, UTC]"), mask=~click),
            "is_click": click,
        }
    )


def write(folder, days: int = 4, change=lambda table: table, zone: str = "UTC"):
    for at in range(days):
        day = FIRST + timedelta(days=at)
        (folder / f"dt={day}").mkdir(parents=True)
        pq.write_table(change(logs(day, zone)), folder / f"dt={day}" / "part.parquet")
    return folder


def check(*arguments: object):
    result = CliRunner().invoke(
        cli.app, ["check", *map(str, arguments)], catch_exceptions=True, env={"COLUMNS": "200"}
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output
