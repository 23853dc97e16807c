"""Small logs of impressions, clicks and conversions, and their join."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from nightbid.config.pipeline import PipelineSpec
from nightbid.data.source import open_source
from nightbid.sampling.stage import run
from nightbid.schema import REASON, TEXT
from tasks import task_of

from . import small_logs

DAY = date(2026, 1, 5)
NEWEST = date(2026, 1, 8)
SMALL = {"kind": "simulator", "rows_per_day": 3000, "users": 300, "ads": 50}
HOUR = timedelta(hours=1)


def spec_of(source, **blocks) -> PipelineSpec:
    return small_logs.spec_of(source=source, **blocks)


def streams(folder, **more) -> dict:
    names = ("impressions", "clicks", "conversions")
    return {"kind": "events", **{name: str(folder / name) for name in names}, **more}


def sampled(spec, out, newest=NEWEST):
    out.mkdir(parents=True)
    task = task_of(spec, newest, out, workspace=out.parent, cache=out.parent)
    return run(task)


def at(hours: float, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + hours * HOUR


def put(folder, name: str, day: date, **columns) -> None:
    target = folder / name / f"dt={day}"
    target.mkdir(parents=True, exist_ok=True)
    columns = {key: values if isinstance(values, pa.Array) else pa.array(values)
               for key, values in columns.items()}  # fmt: skip
    pq.write_table(pa.table(columns), target / "part-00000.parquet")


NONE = pa.array([], pa.timestamp("us", "UTC"))


def joined(folder, tmp_path, **more):
    spec = spec_of(streams(folder, **more))
    source = open_source(spec.source, tmp_path, (DAY,))
    table = pa.Table.from_batches(list(source.batches(DAY)))
    good = table.filter(pc.is_null(table[REASON]))
    aside = table.filter(pc.is_valid(table[REASON]))
    rows = {row["impression_id"]: row for row in good.to_pylist()}
    return rows, sorted(aside.select([REASON, TEXT]).to_pylist(), key=str), source.figures(DAY)
