"""Run two nights of ctr of different size, as input for `scale.py`.

The two sizes separate the fixed cost of a stage from its cost per row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from nightbid.data.simulator.source import MEANING
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

HERE = Path(__file__).parent
PIPELINE = HERE.parent / "include" / "pipelines" / "ctr.yaml"
MEASURED = HERE / "scale.json"
NIGHT_OF = date(2026, 1, 12)


def measure(sizes: list[int]) -> None:
    """Run a night of each size from Parquet files, and store the usage of its stages."""
    nights = []
    for size in sorted(sizes):
        with tempfile.TemporaryDirectory() as folder:
            # Stages whose cost does not grow with the rows run only in the small night.
            until = "evaluate" if nights else "load_test"
            nights.append(night(Path(folder), size, until))
    distinct = [counted(int(size)) for size in (2.5e6, 10e6)]
    measured = {
        "taken": datetime.now(UTC).date().isoformat(),
        "nights": nights,
        "distinct": distinct,
    }
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")


def night(folder: Path, per_day: int, until: str) -> dict[str, Any]:
    """Run one night up to a stage; return what each stage read, wrote and used."""
    tree = yaml.safe_load(PIPELINE.read_text())
    days = sum(tree["window"].values())
    environment = {
        **os.environ,
        "NIGHTBID_WORKSPACE": str(folder / "workspace"),
        "NIGHTBID_CACHE": str(folder / "cache"),
        "NIGHTBID_TRACKING": "",
    }
    first = NIGHT_OF - timedelta(days=days - 1)
    cli = [sys.executable, "-m", "nightbid"]
    subprocess.run(
        [*cli, "data", "write", "ctr", "--to", str(folder / "logs"), "--date", str(first),
         "--days", str(days), "--set", f"source.rows_per_day={per_day}"],
        env=environment, check=True,
    )  # fmt: skip
    names = pq.read_schema(next((folder / "logs").rglob("*.parquet"))).names
    tree["source"] = {
        "kind": "parquet",
        "folder": str(folder / "logs"),
        "outcomes": sorted(MEANING.outcomes & set(names)),
    }
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "ctr.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    subprocess.run(
        [*cli, "run", "ctr", "--date", str(NIGHT_OF), "--until", until,
         # As in a night whose training runs on separate machines.
         "--set", "budget.run_usd=null", "--set", "train.refit=false"],
        env={**environment, "NIGHTBID_PIPELINES": str(folder / "pipelines")}, check=True,
    )  # fmt: skip
    workspace = Workspace(folder / "workspace")
    stages = {}
    for record in RunRecord.load(workspace, "ctr", f"ctr-{NIGHT_OF}").records():
        path = workspace.at(record.uri) / "manifest.json"
        manifest = Manifest.model_validate_json(path.read_text())
        stages[record.stage] = {
            "rows": manifest.rows.read,
            "cpu_seconds": manifest.usage.cpu_seconds,
            "bytes": sum(file.size for file in manifest.files),
        }
        if record.stage == "sample":
            stages["sample"]["label_rate"] = manifest.metrics["label_rate"]
            sampled = path.parent
        if record.stage == "featurize":
            stages["featurize"] |= held(sampled, path.parent)
        if record.stage == "train":
            stages["train"]["epochs"] = manifest.metrics["epochs"]
    return {"rows_per_day": per_day, "stages": stages}


def _nbytes(output: Path) -> float:
    """Return the bytes in memory of a row of the evaluation days."""
    path = next(output.glob("split=evaluate/*/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    return float(table.nbytes / len(table))


def held(sampled: Path, featurized: Path) -> dict[str, Any]:
    """Return the memory per row in training and evaluation, and per history key."""
    from nightbid.features.fitted import FittedFeatures
    from nightbid.models.layout import Layout
    from nightbid.schema import FeatureSchema
    from nightbid.training.data import read_examples

    rows = read_examples(
        featurized, "validate", Layout(FeatureSchema.load(featurized / "fitted")), serving=True
    )
    inputs = rows.inputs
    arrays = (inputs.ids, inputs.numbers, inputs.bag_weights, rows.labels, rows.weights, rows.given)
    learned = FittedFeatures.load(featurized / "fitted").learned.values()
    history = [fitted.history for fitted in learned if fitted.history is not None]
    return {
        "memory_per_row": sum(array.nbytes for array in arrays) / len(rows),
        "ids_per_row": inputs.ids.shape[1],
        "evaluated_per_row": sum(_nbytes(folder) for folder in (sampled, featurized)),
        "history_bytes_per_key": sum(t.nbytes for t in history) / sum(len(t) for t in history),
    }


def counted(distinct: int) -> dict[str, float]:
    """Count distinct tokens in one process, as the merge does; return CPU seconds and memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "memory.py"), "--one", "distinct", str(distinct)]
        process = subprocess.run([*command, folder], stdout=subprocess.PIPE, text=True, check=True)
    usage = json.loads(process.stdout.splitlines()[-1])
    return {"tokens": distinct, "cpu_seconds": usage["cpu"], "peak_mib": usage["peak_mib"]}
