"""Training speed and accuracy of DCN-v2 on the same rows, in Nightbid and its peers.

    python benchmarks/train.py                        # 100,000 rows a day, two rounds
    python benchmarks/train.py --rows 40000 --only ours torch --rounds 3
    python benchmarks/train.py --install              # make the peers' environments, and end

Simulated nights are featurized once, and every engine gets the same matrices. Each engine trains in
its own process, one after another, round by round, and the best time of each counts. Building,
compiling and a first batch happen before the clock starts; validation and scoring are not timed.
AUC is measured on the same newer rows. Peers have their own environments in the user's cache
folder. An engine that cannot be installed is left out, and the reason is printed.
`benchmarks/fits/job.py` describes the model.

`input` is the share of step time in which Nightbid's loop waits for rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from environments import OURS, python_of
from nightbid.config.load import load_pipeline
from nightbid.models.layout import Layout, width
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.schema import FeatureSchema
from nightbid.storage.workspace import Workspace
from nightbid.training.data import read_examples
from sklearn.metrics import log_loss, roc_auc_score

HERE = Path(__file__).parent
PIPELINE = HERE.parent / "include" / "pipelines" / "ctr.yaml"
DIM, CROSSES, HIDDEN = 16, 2, (64, 32)


@dataclass(frozen=True)
class Engine:
    """An implementation of the training."""

    script: str
    packages: tuple[str, ...] = ()
    """Packages of its own environment; without any, it runs in ours."""
    alone: tuple[str, ...] = ()
    """Packages that are installed without their dependencies."""


ENGINES = {
    "ours": Engine("ours.py"),
    "keras": Engine("plain_keras.py"),
    "deepctr": Engine(
        "deepctr_.py",
        ("tensorflow==2.21.0", "tf_keras==2.21.0", "requests"),
        ("deepctr==0.9.4",),  # deepctr pins an h5py version that has no wheel for Python 3.11
    ),
    "torch": Engine("torch_.py", ("torch==2.13.0", "numpy")),
    "fuxictr": Engine("fuxictr_.py", ("torch==2.13.0", "numpy", "fuxictr==2.3.10")),
    "lightgbm": Engine("lightgbm_.py"),
}


def prepare(folder: Path, asked: argparse.Namespace) -> dict:
    """Featurize nights, write the input of every engine and return the job."""
    settings = [f"source.rows_per_day={asked.rows}", f"window.train_days={asked.days}"]
    spec = load_pipeline(PIPELINE, settings)
    run = RunRecord.start(Workspace(folder / "ws"), spec, date(2026, 1, 12))
    for stage in NIGHT:
        if stage.name in ("sample", "featurize"):
            result = run_stage(stage, spec, run, cache_folder=folder / "cache")
    featurized = folder / "ws" / result.uri
    schema = FeatureSchema.load(featurized / "fitted")
    # Only Nightbid masks position at random; without it, all engines learn from the same values.
    inputs = tuple(
        feature_input for feature_input in schema.inputs if not feature_input.training_only
    )
    schema = schema.model_copy(update={"inputs": inputs})
    layout = Layout(schema)
    for name, split in (("train", "train"), ("newer", "validate")):
        rows = read_examples(featurized, split, layout, serving=False)
        for part in ("ids", "numbers", "bag_weights"):
            np.save(folder / f"{name}-{part}.npy", getattr(rows.inputs, part))
        np.save(folder / f"{name}-labels.npy", rows.labels)
    (folder / "schema.json").write_text(schema.model_dump_json())
    job = {
        "fields": [
            {"name": lookup.name, "kind": lookup.kind, "size": lookup.size, "width": width(lookup),
             "first": layout.places[lookup.name].start, "offset": layout.rows_of(lookup.name)[0]}
            for lookup in layout.lookups
        ],
        "table_rows": layout.table_rows, "dim": DIM, "crosses": CROSSES, "hidden": HIDDEN,
        "batch": spec.train.batch_size or 2048, "epochs": asked.epochs,
        "learning_rate": spec.train.learning_rate,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    return job


def interpreters(names: list[str]) -> dict[str, str]:
    pythons = {}
    for name in names:
        engine = ENGINES[name]
        try:
            pythons[name] = (
                python_of(name, engine.packages, engine.alone) if engine.packages else OURS
            )
        except RuntimeError as error:
            print(f"{name} is left out: it cannot be installed here ({error})", flush=True)
    return pythons


def fit(name: str, python: str, folder: Path) -> dict:
    scores = folder / f"scores-{name}.npy"
    command = [python, str(HERE / "fits" / ENGINES[name].script), str(folder), str(scores)]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if process.returncode:
        raise RuntimeError((process.stderr.strip().splitlines() or ["no message"])[-1][:200])
    return json.loads(process.stdout.strip().splitlines()[-1])


def measure(folder: Path, job: dict, asked: argparse.Namespace) -> None:
    labels = np.load(folder / "newer-labels.npy")
    rows = len(np.load(folder / "train-labels.npy", mmap_mode="r"))
    print(
        f"{rows:,} rows, {len(job['fields'])} lookups, {job['table_rows']:,} vectors of {DIM},"
        f" batch {job['batch']}, {asked.epochs} epochs, AUC of {len(labels):,} rows",
        flush=True,
    )
    best: dict[str, dict] = {}
    pythons = interpreters(asked.only)
    for _ in range(asked.rounds):
        for name, python in list(pythons.items()):
            try:
                result = fit(name, python, folder)
            except RuntimeError as error:
                print(f"{name} is left out: it failed ({error})", flush=True)
                del pythons[name]
                continue
            scores = np.load(folder / f"scores-{name}.npy")
            result["auc"] = roc_auc_score(labels, scores)
            result["log_loss"] = log_loss(labels, np.clip(scores, 1e-7, 1 - 1e-7))
            result["speed"] = rows * result.get("passes", asked.epochs) / result["seconds"]
            print(f"  {name:10}{result['seconds']:8.1f} s{result['cpu']:8.1f} CPU s", flush=True)
            if name not in best or result["speed"] > best[name]["speed"]:
                best[name] = result
    our_speed = best.get("ours", {}).get("speed", float("nan"))
    head = ("", "samples/s", "ours is", "CPU s", "AUC", "log loss", "peak MiB", "input")
    print("\n{:10}{:>12}{:>10}{:>9}{:>9}{:>10}{:>10}{:>8}".format(*head))
    for name, result in best.items():
        share = f"{result['input_share']:8.1%}" if "input_share" in result else ""
        times = "" if "passes" in result else f"{our_speed / result['speed']:.2f}x"
        print(
            f"{name:10}{result['speed']:12,.0f}{times:>10}{result['cpu']:9.1f}"
            f"{result['auc']:9.4f}{result['log_loss']:10.5f}{result['peak_mib']:10,.0f}{share}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="a day")
    parser.add_argument("--days", type=int, default=5, help="of training")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--folder", type=Path, help="where rows are kept between runs")
    parser.add_argument("--install", action="store_true", help="make environments, and end")
    options = parser.parse_args()
    if options.install:
        for name, python in interpreters(options.only).items():
            print(f"{name}: {python}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        job_file = folder / "job.json"
        job = json.loads(job_file.read_text()) if job_file.exists() else prepare(folder, options)
        job["epochs"] = options.epochs
        job_file.write_text(json.dumps(job))
        measure(folder, job, options)


if __name__ == "__main__":
    sys.exit(main())
