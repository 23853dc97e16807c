"""Speed of sampling large days with one thread and with several, in alternating rounds.

    python benchmarks/sampling.py [--rows 600000] [--rounds 3]

The script writes days of the simulated exchange as Parquet files. A unit of work covers row groups
of a few million rows (`nightbid.data.units`). Each round samples the days into an empty workspace.
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
    """Return a pipeline with one day each of training, validation and evaluation."""
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
    """Sample once; return rows, CPU seconds and seconds."""
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        logs = Path(name) / "logs"
        block = {"kind": "simulator", "rows_per_day": options.rows}
        source = open_source(spec_of(block, 1).source, Path(name) / "cache")
        for back in range(DAYS):
            write_day(source.batches(day := NEWEST - timedelta(days=back)), logs, day)
        sample(logs, 1)
        for _ in range(options.rounds):
            for workers in (1, 2):
                rows, cpu, wall = sample(logs, workers)
                print(f"{rows:,} rows, {workers} threads: {cpu:.2f} CPU s, {wall:.2f} s")


if __name__ == "__main__":
    main()
