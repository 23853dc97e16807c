"""Sampling of large days: one thread against several, rounds taken in turn.

    python benchmarks/sampling.py [--rows 600000] [--rounds 3]

Days of the simulated exchange lie in Parquet files; a unit takes row groups of some
million rows (`nightbid.data.units`). Each round samples them into an empty workspace.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.data.source import open_source
from nightbid.data.write import write_day
from nightbid.night.task import StageTask
from nightbid.sampling.stage import run
from nightbid.storage.workspace import Workspace

NEWEST = date(2026, 1, 11)
DAYS = 3


def spec_of(source: dict[str, object], workers: int) -> PipelineSpec:
    """A pipeline of one day of training, validation and evaluation each."""
    return PipelineSpec.model_validate(
        {
            "pipeline": "bench",
            "source": source,
            "window": {"train_days": 1},
            "features": {"ad_id": {}},
            "runner": {"workers": workers},
        }
    )


def sample(logs: Path, workers: int) -> tuple[int, float, float]:
    """Rows, CPU seconds and seconds of one round."""
    spec = spec_of({"kind": "parquet", "folder": str(logs)}, workers)
    with tempfile.TemporaryDirectory(dir=logs.parent) as name:
        folder = Path(name)
        (folder / "out").mkdir()
        task = StageTask(
            spec=spec,
            night=Night.of(spec, NEWEST),
            run_id="r",
            inputs={},
            history=(),
            output=folder / "out",
            workspace=Workspace(str(folder / "workspace")),
            cache=folder / "cache",
        )
        cpu, wall = time.process_time(), time.perf_counter()
        outcome = run(task)
        return outcome.rows.read, time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print a line per round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600_000, help="of a day")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        logs = Path(name) / "logs"
        block = {"kind": "simulator", "rows_per_day": asked.rows}
        made = open_source(spec_of(block, 1).source, Path(name) / "cache")
        for back in range(DAYS):
            write_day(made.batches(day := NEWEST - timedelta(days=back)), logs, day)
        sample(logs, 1)
        for _ in range(asked.rounds):
            for workers in (1, 2):
                rows, cpu, wall = sample(logs, workers)
                print(f"{rows:,} rows, {workers} threads: {cpu:.2f} CPU s, {wall:.2f} s")


if __name__ == "__main__":
    main()
