"""Two nights of ctr of different size, run here: what `scale.py` computes from.

They tell what a stage costs once, and what per row.
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
    """Run a night of each size from Parquet files, and keep what its stages used."""
    found = []
    for size in sorted(sizes):
        with tempfile.TemporaryDirectory() as folder:
            # What does not grow with the rows is measured in the small night alone.
            until = "evaluate" if found else "load_test"
            found.append(night(Path(folder), size, until))
    distinct = [counted(int(size)) for size in (2.5e6, 10e6)]
    kept = {"taken": datetime.now(UTC).date().isoformat(), "nights": found, "distinct": distinct}
    MEASURED.write_text(json.dumps(kept, indent=1) + "\n")


def night(folder: Path, per_day: int, until: str) -> dict[str, Any]:
    """Run one night up to a stage; what each stage read, wrote and used."""
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
         # As a night does whose training runs on machines of its own.
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
            "bytes": sum(each.size for each in manifest.files),
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
    """Of a row of the evaluation days in memory."""
    path = next(output.glob("split=evaluate/*/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    return float(table.nbytes / len(table))


def held(sampled: Path, featurized: Path) -> dict[str, Any]:
    """Bytes that rows take in the memory of a training, and keys of the past in that of Beam."""
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
    history = [each.history for each in learned if each.history is not None]
    return {
        "memory_per_row": sum(each.nbytes for each in arrays) / len(rows),
        "ids_per_row": inputs.ids.shape[1],
        "evaluated_per_row": sum(_nbytes(each) for each in (sampled, featurized)),
        "history_bytes_per_key": sum(t.nbytes for t in history) / sum(len(t) for t in history),
    }


def counted(distinct: int) -> dict[str, float]:
    """CPU seconds of counting so many different tokens in one process, as the merge does."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "memory.py"), "--one", "distinct", str(distinct)]
        done = subprocess.run([*command, folder], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"tokens": distinct, "cpu_seconds": found["cpu"], "peak_mib": found["peak_mib"]}
