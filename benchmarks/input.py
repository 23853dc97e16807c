"""Samples per second from featurized columns into TensorFlow, with shuffled rows and two threads.

    python benchmarks/input.py --rows 2

The script featurizes Criteo-shaped rows (see `criteo.py`), reads them as training does and passes
batches to a compiled function that reads every value, epoch by epoch. Each epoch shuffles all rows.
A training pays for `read` once, and for `epochs` in every epoch. CPU time stays comparable on a
busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import criteo

OURS = Path(__file__).parent / "peers" / "ours.py"
EPOCHS = 3


def featurized(root: Path, rows: int) -> Path:
    criteo.write(root / "raw", rows)
    files = sorted(map(str, (root / "raw").rglob("*.parquet")))
    for step in ("analyze", "transform"):
        command = [sys.executable, str(OURS), step, str(root), *files]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{step}: {json.loads(process.stdout.splitlines()[-1])['seconds']:.1f} s")
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1, help="millions")
    parser.add_argument("--batch", type=int, default=4096)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = featurized(Path(scratch), int(options.rows * 1e6))
        measure(root / "rows", root / "fitted", options.batch)


def measure(rows: Path, fitted: Path, batch: int) -> None:
    import tensorflow as tf
    from nightbid.models.layout import Layout
    from nightbid.schema import FeatureSchema
    from nightbid.training.data import read_examples

    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    layout = Layout(FeatureSchema.load(fitted))
    clock, cpu = time.perf_counter(), time.process_time()
    examples = read_examples(rows, "train", layout, serving=False)
    told("read", len(examples), clock, cpu)

    @tf.function(reduce_retracing=True)
    def touch(ids, numbers, labels, weights):
        total = tf.reduce_sum(numbers) + tf.reduce_sum(labels * weights)
        return total + tf.cast(tf.reduce_sum(ids), tf.float32)

    def epoch(number: int) -> None:
        for examples_batch in examples.shuffled(batch, seed=1, epoch=number):
            touch(
                examples_batch.inputs.ids,
                examples_batch.inputs.numbers,
                examples_batch.labels,
                examples_batch.weights,
            )

    epoch(0)
    clock, cpu = time.perf_counter(), time.process_time()
    for number in range(1, EPOCHS + 1):
        epoch(number)
    told("epochs", EPOCHS * len(examples), clock, cpu)


def told(what: str, rows: int, clock: float, cpu: float) -> None:
    seconds, spent = time.perf_counter() - clock, time.process_time() - cpu
    print(f"{what:8}{rows / seconds:14,.0f} samples/s{rows / spent:14,.0f} per CPU second")


if __name__ == "__main__":
    main()
