"""A pipeline with small simulated logs, and rows made by hand that it parses."""

from __future__ import annotations

import pyarrow as pa
from nightbid.config.pipeline import PipelineSpec
from nightbid.sampling.rows import parse

SMALL = {"kind": "simulator", "rows_per_day": 800, "users": 200, "ads": 50}


def spec_of(**blocks) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "pipeline": "t",
            "source": SMALL,
            "features": {"ad_id": {"column": "ad_id"}},
            "window": {"train_days": 2, "validate_days": 1, "evaluate_days": 1},
            **blocks,
        }
    )


def logs(rows: int = 6, **columns) -> pa.Table:
    start = 1_767_225_600_000_000
    table = {
        "impression_id": pa.array(range(rows)),
        "time": pa.array([start + at for at in range(rows)], pa.timestamp("us", "UTC")),
        "user_id": pa.array([f"u{at % 3}" for at in range(rows)]),
        "ad_id": pa.array(["a"] * rows),
        "click": pa.array([at % 2 for at in range(rows)]),
    }
    table |= {name: values if isinstance(values, pa.Array) else pa.array(values)
              for name, values in columns.items()}  # fmt: skip
    return pa.table(table)


def parsed(table: pa.Table, **blocks):
    return parse(table, spec_of(**blocks), {}, "logs of today")
