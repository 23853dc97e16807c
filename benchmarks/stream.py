"""Peak memory and rows per second of training and evaluation, in memory and streamed.

    python benchmarks/stream.py --rows 1 5 --train logistic_regression gradient_boosted_trees

The script generates featurized rows (18 ids, 8 numbers, a bag of 4; a tenth for validation, a fifth
for evaluation), so that a window of any size takes a minute. Each case runs in its own process,
because the peak of a process never falls; at 50,000 rows it is the memory of the libraries.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa

MILLION = 1_000_000
GROUP = 131_072
IDS, NUMBERS, BAG, USERS = 18, 8, 4, 20
SPLITS = (
    ("train", 0.7, "2026-01-01"),
    ("validate", 0.1, "2026-01-02"),
    ("evaluate", 0.2, "2026-01-03"),
)


def make(folder: Path, rows: int) -> None:
    """Write a sample output and a featurize output."""
    from nightbid.featurize.groups import encode_rows
    from nightbid.schema import KEY, LABEL, TIME, USER, WEIGHT, FeatureSchema, ModelInput

    sizes = [int(10 ** (1 + 4 * at / IDS)) for at in range(IDS)]
    lookups = [
        ModelInput(name=f"id{at}", kind="id", feature="f", size=size)
        for at, size in enumerate(sizes)
    ]
    numbers = [ModelInput(name=f"n{at}", kind="float", feature="f") for at in range(NUMBERS)]
    bag = ModelInput(name="bag", kind="bag", feature="f", size=1000, length=BAG)
    (folder / "featurize" / "fitted").mkdir(parents=True)
    FeatureSchema(inputs=(*lookups, *numbers, bag)).save(folder / "featurize" / "fitted")
    world = np.random.default_rng(0)
    tastes = [world.normal(0, 0.4, size) for size in sizes]
    for number, (split, share, day) in enumerate(SPLITS):
        for part, start in enumerate(range(0, int(rows * share), GROUP)):
            count = min(GROUP, int(rows * share) - start)
            draw = np.random.default_rng((number, part))
            values = [(size * draw.random(count) ** 2).astype(np.int32) for size in sizes]
            floats = draw.normal(size=(NUMBERS, count)).astype(np.float32)
            logit = (
                -3 + sum(t[v] for t, v in zip(tastes, values, strict=True)) + 0.2 * floats.sum(0)
            )
            label = (draw.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float32)
            shown = pa.array(np.full(count, np.datetime64(day, "us")))
            reserved = {
                KEY: np.arange(count) + (number << 48) + start,
                LABEL: label,
                WEIGHT: np.ones(count, np.float32),
                TIME: shown.cast(pa.timestamp("us", "UTC")),
                USER: draw.integers(0, max(rows // USERS, 1), count),
            }

            def lists(each: np.ndarray[Any, Any]) -> pa.Array:
                return pa.FixedSizeListArray.from_arrays(pa.array(each), BAG)

            inputs = {
                **{f"id{number}": column for number, column in enumerate(values)},
                **{f"n{number}": column for number, column in enumerate(floats)},
                "bag": lists(draw.integers(0, 1000, count * BAG).astype(np.int32)),
                "bag__weight": lists(np.ones(count * BAG, np.float32)),
            }
            path = Path(f"split={split}") / f"dt={day}" / f"part-{part:05d}.parquet"
            for stage, columns in (("featurize", {**reserved, **inputs}), ("sample", reserved)):
                (folder / stage / path).parent.mkdir(parents=True, exist_ok=True)
                encode_rows(pa.table(columns), folder / stage / path)


def task_of(folder: Path, output: str, architecture: str, memory_gb: float | None) -> Any:
    from nightbid.config.pipeline import Night, PipelineSpec
    from nightbid.night.manifest import Manifest
    from nightbid.night.task import StageInput, StageTask
    from nightbid.storage.workspace import Workspace
    from upath import UPath

    parameters = {"trees": 20} if "tree" in architecture else {}
    spec = PipelineSpec.model_validate(
        {
            "pipeline": "bench",
            "features": {"f": "vocabulary"},
            "model": {"architecture": architecture, "parameters": parameters},
            "train": {"batch_size": 4096, "epochs": 1, "memory_gb": memory_gb},
        }
    )
    output_folder = folder / output
    output_folder.mkdir(exist_ok=True)
    folders = {subfolder.name: subfolder for subfolder in folder.iterdir() if subfolder.is_dir()}
    created = dt.datetime(2026, 1, 4, tzinfo=dt.UTC)

    def manifest(stage: str) -> Manifest:
        return Manifest(
            pipeline="bench", run_id="bench", stage=stage, night="2026-01-04", key="k", digest="d",
            inputs={}, spec_digest="", code_digest="", versions={}, seed=0, created=created,
        )  # fmt: skip

    return StageTask(
        spec=spec,
        night=Night.of(spec, dt.date(2026, 1, 4)),
        run_id="bench",
        inputs={name: StageInput(manifest(name), UPath(path)) for name, path in folders.items()},
        history=(),
        output=output_folder,
        workspace=Workspace(str(folder / "workspace")),
        cache=folder / "cache",
    )


def measure(folder: Path, what: str, architecture: str, memory_gb: float | None) -> dict[str, Any]:
    clock, cpu = time.perf_counter(), time.process_time()
    figures: dict[str, Any] = {}
    if what == "evaluate":
        from nightbid.evaluation.stage import run

        outcome = run(task_of(folder, "evaluated", "logistic_regression", None))
        figures["entropy"] = outcome.metrics["candidate"]["normalized_entropy"]
    else:
        from nightbid.training.stage import run as fit

        outcome = fit(task_of(folder, what, architecture, memory_gb))
        figures["memory"] = outcome.metrics["memory"]
        figures["per_second"] = outcome.metrics["examples_per_second"]
        figures["log_loss"] = outcome.metrics["validation"]["log_loss"]
    return figures | {
        "rows": outcome.rows.read,
        "seconds": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="*", default=[1, 5], help="millions")
    parser.add_argument(
        "--memory", type=float, nargs="*", default=[1000, 0.5], help="train.memory_gb"
    )
    parser.add_argument(
        "--train", nargs="*", default=["logistic_regression", "dcn_v2", "gradient_boosted_trees"]
    )
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, case, architecture, limit = options.one
        if case == "make":
            return make(Path(folder), int(architecture))
        print(json.dumps(measure(Path(folder), case, architecture, float(limit))))
        return None
    print("| million rows | stage | memory_gb | rows/s | rows per CPU s | peak MiB | log loss |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for millions in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            alone(folder, "make", str(int(millions * MILLION)), "0")
            cases = [("train", name, limit) for name in options.train for limit in options.memory]
            if options.evaluate:
                for stage in ("train", "train_baseline"):
                    alone(folder, stage, "logistic_regression", "1000")
                cases.append(("evaluate", "", 1000))
            for case, architecture, limit in cases:
                output = case if case == "evaluate" else f"{architecture}-{limit:g}"
                answer = alone(folder, output, architecture or "-", str(limit))
                figures = json.loads(answer.splitlines()[-1])
                print(
                    f"| {millions:g} | {architecture or case} | {limit:g}"
                    f"{' streams' if figures.get('memory', {}).get('streams') else ''}"
                    f" | {figures.get('per_second', figures['rows'] / figures['seconds']):,.0f}"
                    f" | {figures['rows'] / figures['cpu']:,.0f} | {figures['peak_mib']:,.0f}"
                    f" | {figures.get('log_loss', 0):.4f} |",
                    flush=True,
                )
    return None


def alone(folder: str, what: str, architecture: str, limit: str) -> str:
    command = [sys.executable, __file__, "--one", folder, what, architecture, limit]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return process.stdout


if __name__ == "__main__":
    main()
