"""Training speed: DCN-v2 of one size on the same rows, here and as one would write it in Keras.

    nice -n 10 python benchmarks/train.py --rows 100000 --epochs 2

Ours: fused table, lazy Adam, rows in memory. Keras: an Embedding per input, Adam, `fit` on the same
arrays. Both have the same inputs, layers, batches and learning rate; AUC is of the same newer rows.
`waits` is the share of a step in which it waits for its batch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import date
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from nightbid.attempt import run_stage
from nightbid.config.load import load_pipeline
from nightbid.models.folder import ModelCard
from nightbid.models.layout import Layout, width
from nightbid.models.runtime import THREADS, tensorflow
from nightbid.nightly import NIGHT
from nightbid.progress import silent, unwatched
from nightbid.runs import RunRecord
from nightbid.schema import FeatureSchema
from nightbid.training.data import Examples, read_examples
from nightbid.training.validation import validate
from nightbid.workspace import Workspace

PIPELINE = Path(__file__).parents[1] / "include" / "pipelines" / "ctr.yaml"
DIM, CROSSES, RANK, HIDDEN = 16, 2, 32, (64, 32)


def rows_of(folder: Path, per_day: int, days: int):
    settings = [f"source.rows_per_day={per_day}", f"window.train_days={days}"]
    spec = load_pipeline(PIPELINE, settings)
    run = RunRecord.start(Workspace(folder / "ws"), spec, date(2026, 1, 12))
    for stage in NIGHT:
        if stage.name in ("sample", "featurize"):
            result = run_stage(stage, spec, run, cache_folder=folder / "cache")
    return spec, folder / "ws" / result.uri


def ours(spec, schema, train: Examples, newer: Examples) -> tuple[float, float, float]:
    from nightbid.models.network import Network
    from nightbid.training.checkpoints import Checkpoints
    from nightbid.training.loop import Training

    card = ModelCard(
        architecture="dcn_v2",
        embedding_dim=DIM,
        parameters={"cross_layers": CROSSES, "rank": RANK, "hidden": HIDDEN},
        prior=float(np.log(train.rate / (1 - train.rate))),
        features=schema,
    )
    # A constant rate, as Keras has it.
    changes = {"epochs": asked.epochs, "patience": asked.epochs, "schedule": "constant"}
    settings = spec.train.model_copy(update=changes)
    network = Network(card, seed=0)
    training = Training(network, train, newer, settings, step_scale=1.0, seed=0)
    batch = train.take(slice(0, settings.batch_size))
    # Compile, without learning anything.
    training.step(batch, 0.0)
    network.score(batch.inputs)
    started = time.perf_counter()
    training.run(progress=silent, watch=unwatched, checkpoints=Checkpoints(None, 1e9))
    seconds = time.perf_counter() - started
    clock = time.perf_counter()
    for epoch in range(asked.epochs):
        for _ in train.shuffled(0, epoch).batches(spec.train.batch_size):
            pass
    waits = (time.perf_counter() - clock) / seconds
    return (
        len(train) * asked.epochs / seconds,
        validate(network.score(newer.inputs), newer).auc,
        waits,
    )


def plain_keras(spec, schema, train: Examples, newer: Examples) -> tuple[float, float]:
    import keras
    from keras import ops

    layout = Layout(schema)
    ids = keras.Input((len(layout.offsets),), dtype="int32")
    numbers = keras.Input((len(layout.numbers),))
    weights = keras.Input((train.inputs.bag_weights.shape[1],))
    parts = []
    for each in layout.lookups:
        vectors = keras.layers.Embedding(each.size, DIM)(ids[:, layout.places[each.name]])
        if each.kind == "bag":
            mine = ops.expand_dims(weights[:, layout.bag_places[each.name]], -1)
            parts.append(ops.sum(vectors * mine, axis=1))
        else:
            parts.append(ops.reshape(vectors, (-1, width(each) * DIM)))
    x0 = ops.concatenate([*parts, numbers], axis=-1)
    x = x0
    for _ in range(CROSSES):
        low = keras.layers.Dense(RANK, use_bias=False)(x)
        x = x0 * keras.layers.Dense(x0.shape[-1])(low) + x
    deep = x0
    for units in HIDDEN:
        deep = keras.layers.Dense(units, activation="relu")(deep)
    output = keras.layers.Dense(1, activation="sigmoid")(ops.concatenate([x, deep], axis=-1))
    model = keras.Model([ids, numbers, weights], output)
    model.compile(keras.optimizers.Adam(spec.train.learning_rate), "binary_crossentropy")

    def matrices(rows: Examples) -> list[np.ndarray]:
        return [rows.inputs.ids, rows.inputs.numbers, rows.inputs.bag_weights]

    size = spec.train.batch_size
    head = train.take(slice(0, size))
    model.fit(matrices(head), head.labels, batch_size=size, verbose=0)
    started = time.perf_counter()
    model.fit(matrices(train), train.labels, batch_size=size, epochs=asked.epochs,
              sample_weight=train.weights, verbose=0)  # fmt: skip
    speed = len(train) * asked.epochs / (time.perf_counter() - started)
    scores = model.predict(matrices(newer), batch_size=16384, verbose=0)[:, 0]
    return speed, validate(scores.astype(np.float64), newer).auc


def trees(schema, train: Examples, newer: Examples) -> tuple[float, float]:
    from nightbid.models.registry import find
    from nightbid.training.trees import fit_trees

    parameters = find("gradient_boosted_trees").parameters({})
    card = ModelCard(architecture="gradient_boosted_trees", embedding_dim=1,
                     parameters=parameters, prior=0.0, features=schema)  # fmt: skip
    model, found = fit_trees(card, train, newer, seed=0, progress=silent, watch=unwatched)
    return found["examples_per_second"], validate(model.score(newer.inputs), newer).auc


def main() -> None:
    tensorflow()
    with tempfile.TemporaryDirectory() as temporary:
        spec, folder = rows_of(Path(temporary), asked.rows, asked.days)
        schema = FeatureSchema.load(folder / "fitted")
        layout = Layout(schema)
        train = read_examples(folder, "train", layout, serving=False)
        newer = read_examples(folder, "validate", layout, serving=True)
        print(
            f"{len(train):,} rows, {len(schema.inputs)} inputs, {layout.table_rows:,} embeddings of"
            f" {DIM}, batch {spec.train.batch_size}, {asked.epochs} epochs, {THREADS} threads"
        )
        for turn in range(asked.turns):
            speed, auc, waits = ours(spec, schema, train, newer)
            print(f"ours        {speed:>10,.0f} samples/s  AUC {auc:.4f}  waits {waits:.1%}")
            plain, plain_auc = plain_keras(spec, schema, train, newer)
            print(f"plain Keras {plain:>10,.0f} samples/s  AUC {plain_auc:.4f}")
            print(f"ratio {speed / plain:.2f} (turn {turn + 1})", flush=True)
        speed, auc = trees(schema, train, newer)
        print(f"LightGBM    {speed:>10,.0f} rows·trees/s  AUC {auc:.4f}")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=40_000, help="a day")
parser.add_argument("--days", type=int, default=5)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--turns", type=int, default=2, help="of measuring both, one after the other")
asked = parser.parse_args()

if __name__ == "__main__":
    main()
