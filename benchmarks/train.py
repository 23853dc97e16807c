"""Training speed and accuracy: DCN-v2 of one size on the same rows, ours and the peers'.

    python benchmarks/train.py                        # 100,000 rows a day, two rounds
    python benchmarks/train.py --rows 40000 --only ours torch --rounds 3
    python benchmarks/train.py --install              # make the peers' environments, and end

Simulated nights are featurized once; every engine gets the same matrices, trains in a process of
its own, one after the other, round by round, and the best time of each counts. Building, compiling
and a first batch come before the clock; validation and scoring are not timed. AUC is of the same
newer rows. Peers live in environments of their own in the user's cache folder; one that cannot be
installed is left out, with the reason. `benchmarks/fits/job.py` says what all of them fit.

`input` is the share of the steps' time in which ours waits for its rows.
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
    """One way to fit the model."""

    script: str
    packages: tuple[str, ...] = ()
    """What its own environment holds; none: ours."""
    alone: tuple[str, ...] = ()
    """Installed without what they ask for."""


ENGINES = {
    "ours": Engine("ours.py"),
    "keras": Engine("plain_keras.py"),
    "deepctr": Engine(
        "deepctr_.py",
        ("tensorflow==2.21.0", "tf_keras==2.21.0", "requests"),
        ("deepctr==0.9.4",),  # it pins a version of h5py that has no wheel for Python 3.11
    ),
    "torch": Engine("torch_.py", ("torch==2.13.0", "numpy")),
    "fuxictr": Engine("fuxictr_.py", ("torch==2.13.0", "numpy", "fuxictr==2.3.10")),
    "lightgbm": Engine("lightgbm_.py"),
}


def prepare(folder: Path, asked: argparse.Namespace) -> dict:
    """Featurize nights and write what every engine reads; returns the job."""
    settings = [f"source.rows_per_day={asked.rows}", f"window.train_days={asked.days}"]
    spec = load_pipeline(PIPELINE, settings)
    run = RunRecord.start(Workspace(folder / "ws"), spec, date(2026, 1, 12))
    for stage in NIGHT:
        if stage.name in ("sample", "featurize"):
            result = run_stage(stage, spec, run, cache_folder=folder / "cache")
    featurized = folder / "ws" / result.uri
    schema = FeatureSchema.load(featurized / "fitted")
    # Position is blanked at random by ours alone: without it, all learn from the same cells.
    kept = tuple(each for each in schema.inputs if not each.training_only)
    schema = schema.model_copy(update={"inputs": kept})
    layout = Layout(schema)
    for name, split in (("train", "train"), ("newer", "validate")):
        rows = read_examples(featurized, split, layout, serving=False)
        for part in ("ids", "numbers", "bag_weights"):
            np.save(folder / f"{name}-{part}.npy", getattr(rows.inputs, part))
        np.save(folder / f"{name}-labels.npy", rows.labels)
    (folder / "schema.json").write_text(schema.model_dump_json())
    job = {
        "fields": [
            {"name": each.name, "kind": each.kind, "size": each.size, "width": width(each),
             "first": layout.places[each.name].start, "offset": layout.rows_of(each.name)[0]}
            for each in layout.lookups
        ],
        "table_rows": layout.table_rows, "dim": DIM, "crosses": CROSSES, "hidden": HIDDEN,
        "batch": spec.train.batch_size or 2048, "epochs": asked.epochs,
        "learning_rate": spec.train.learning_rate,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    return job


def interpreters(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        engine = ENGINES[name]
        try:
            found[name] = (
                python_of(name, engine.packages, engine.alone) if engine.packages else OURS
            )
        except RuntimeError as error:
            print(f"{name} is left out: it cannot be installed here ({error})", flush=True)
    return found


def fit(name: str, python: str, folder: Path) -> dict:
    scores = folder / f"scores-{name}.npy"
    command = [python, str(HERE / "fits" / ENGINES[name].script), str(folder), str(scores)]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1][:200])
    return json.loads(done.stdout.strip().splitlines()[-1])


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
                one = fit(name, python, folder)
            except RuntimeError as error:
                print(f"{name} is left out: it failed ({error})", flush=True)
                del pythons[name]
                continue
            scores = np.load(folder / f"scores-{name}.npy")
            one["auc"] = roc_auc_score(labels, scores)
            one["log_loss"] = log_loss(labels, np.clip(scores, 1e-7, 1 - 1e-7))
            one["speed"] = rows * one.get("passes", asked.epochs) / one["seconds"]
            print(f"  {name:10}{one['seconds']:8.1f} s{one['cpu']:8.1f} CPU s", flush=True)
            if name not in best or one["speed"] > best[name]["speed"]:
                best[name] = one
    mine = best.get("ours", {}).get("speed", float("nan"))
    head = ("", "samples/s", "ours is", "CPU s", "AUC", "log loss", "peak MiB", "input")
    print("\n{:10}{:>12}{:>10}{:>9}{:>9}{:>10}{:>10}{:>8}".format(*head))
    for name, one in best.items():
        share = f"{one['input_share']:8.1%}" if "input_share" in one else ""
        times = "" if "passes" in one else f"{mine / one['speed']:.2f}x"
        print(
            f"{name:10}{one['speed']:12,.0f}{times:>10}{one['cpu']:9.1f}"
            f"{one['auc']:9.4f}{one['log_loss']:10.5f}{one['peak_mib']:10,.0f}{share}"
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
    asked = parser.parse_args()
    if asked.install:
        for name, python in interpreters(asked.only).items():
            print(f"{name}: {python}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "job.json"
        job = json.loads(kept.read_text()) if kept.exists() else prepare(folder, asked)
        job["epochs"] = asked.epochs
        kept.write_text(json.dumps(job))
        measure(folder, job, asked)


if __name__ == "__main__":
    sys.exit(main())
