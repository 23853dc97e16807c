"""Cost of a first night, a second one, an unchanged one, and one with an added feature.

    python benchmarks/night.py                                  # 60,000 rows a day, 14 days
    python benchmarks/night.py --rows 600000 --days 14 --until evaluate

The script writes days of the pipeline `ctr` as Parquet files. Then it runs nights in their own
processes, as a user does: the first one; the next one, which has only one new day; the same one
again, unchanged; and one with an added feature. The next night and the added feature also run in an
empty workspace, so that every figure can be compared with the same work on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from nightbid.data.simulator.source import MEANING
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

PIPELINE = Path(__file__).parents[1] / "include" / "pipelines" / "ctr.yaml"
FIRST = date(2026, 1, 1)
ADDED = "features.added={transform: count, columns: [ad_id]}"


class Nights:
    """Nights of `ctr` over one folder of logs."""

    def __init__(self, folder: Path, rows: int, days: int, until: str) -> None:
        self._folder, self._until = folder, until
        tree = yaml.safe_load(PIPELINE.read_text())
        written = folder / "pipelines" / "ctr.yaml"
        self._first = FIRST + timedelta(days=days - 1)
        if written.exists():
            return
        self._run("data", "write", "ctr", "--to", str(folder / "logs"), "--date", str(FIRST),
                  "--days", str(days + 1), "--set", f"source.rows_per_day={rows}")  # fmt: skip
        names = pq.read_schema(next((folder / "logs").rglob("*.parquet"))).names
        tree["source"] = {
            "kind": "parquet",
            "folder": str(folder / "logs"),
            "outcomes": sorted(MEANING.outcomes & set(names)),
        }
        tree["window"] = {"train_days": days - 2}
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(yaml.safe_dump(tree, sort_keys=False))

    def _run(self, *command: str, workspace: str = "w") -> None:
        subprocess.run([sys.executable, "-m", "nightbid", *command],
                       env=self.environment(workspace), check=True)  # fmt: skip

    def environment(self, workspace: str = "w") -> dict[str, str]:
        """Return the environment of a command."""
        variables = {
            **os.environ,
            "NIGHTBID_WORKSPACE": str(self._folder / workspace),
            "NIGHTBID_CACHE": str(self._folder / f"cache-{workspace}"),
            "NIGHTBID_TRACKING": "",
        }
        if (self._folder / "pipelines" / "ctr.yaml").exists():
            variables["NIGHTBID_PIPELINES"] = str(self._folder / "pipelines")
        return variables

    def options(self, number: int, run_id: str, changes: Sequence[str] = ()) -> list[str]:
        """Return the arguments of `nightbid` for one night, without `--until`."""
        newest = self._first + timedelta(days=number)
        sets = [part for change in changes for part in ("--set", change)]
        return ["run", "ctr", "--date", str(newest), "--run-id", run_id,
                "--set", "budget.run_usd=null", *sets]  # fmt: skip

    def night(self, number: int, workspace: str = "w", *changes: str) -> dict[str, Any]:
        """Run a night; return its wall-clock seconds and the usage of its stages."""
        run_id = f"ctr-{number}-{len(changes)}"
        options = self.options(number, run_id, changes)
        started = time.monotonic()
        self._run(*options, "--until", self._until, workspace=workspace)
        figures: dict[str, Any] = {"wall_seconds": time.monotonic() - started}
        root = Workspace(self._folder / workspace)
        for record in RunRecord.load(root, "ctr", run_id).records():
            path = root.at(record.uri) / "manifest.json"
            manifest = Manifest.model_validate_json(path.read_text())
            used = manifest.usage
            figures[record.stage] = {
                "reused": record.reused,
                "seconds": record.seconds,
                "cpu_seconds": 0.0 if record.reused else used.cpu_seconds,
                "mean_gb": used.gb_seconds / max(used.wall_seconds, 1e-9),
                "made": manifest.metrics.get("made", manifest.metrics.get("learned")),
                "learning_cpu_seconds": manifest.metrics.get("learning_cpu_seconds"),
            }
        return figures


def main() -> None:
    """Run the nights and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000, help="a day")
    parser.add_argument("--days", type=int, default=14, help="of the window")
    parser.add_argument("--until", default="featurize", help="last stage of each night")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nights = Nights(Path(folder), options.rows, options.days, options.until)
        results = {
            "first": nights.night(0),
            "second": nights.night(1),
            "second, from nothing": nights.night(1, "alone"),
            "unchanged": nights.night(1),
            "one feature more": nights.night(1, "w", ADDED),
            "one feature more, from nothing": nights.night(1, "alone2", ADDED),
        }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{options.rows:,} rows a day, {options.days} days, {os.cpu_count()} cores\n")
    print(
        "| night | wall s | sample CPU s | learn CPU s | featurize CPU s | days sampled | learned |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, stages in results.items():
        sample, featurize = stages["sample"], stages["featurize"]
        none = featurize["reused"]
        print(
            f"| {name} | {stages['wall_seconds']:.1f} | {sample['cpu_seconds']:.1f}"
            f" | {0.0 if none else featurize['learning_cpu_seconds']:.1f}"
            f" | {featurize['cpu_seconds']:.1f}"
            f" | {0 if sample['reused'] else len(sample['made'])}"
            f" | {0 if none else len(featurize['made'])} |"
        )


if __name__ == "__main__":
    main()
