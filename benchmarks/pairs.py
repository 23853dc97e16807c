"""Gain in GAUC and cost in log loss of an auxiliary loss on pairs of the same user.

    nice python benchmarks/accuracy.py kuairand --days 10 --seeds 1 --only dcn_v2 --source PATH
    nice python benchmarks/pairs.py                 # on the rows that this left, three seeds
    nice python benchmarks/pairs.py --only deepfm --average 0.99 --strengths 0,0.1

Batches group rows by user, in blocks of up to --block rows. For each pair of a positive and a
negative of a user in the batch, with logits z, log(1 + exp(z₋ - z₊)) is averaged within the user;
users are weighted by their rows. The sum, times the strength, is added to the log loss of the
batch. Everything else is Nightbid's own training. The product has no such loss (docs/models.md).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf
from environments import CACHE
from nightbid.config.load import load_pipeline
from nightbid.evaluation.ranking_metrics import GroupedScores, grouped_auc
from nightbid.models.folder import ModelCard
from nightbid.models.layout import Layout
from nightbid.models.network import Network, joint_logit
from nightbid.models.registry import find
from nightbid.night.progress import silent, unwatched
from nightbid.schema import USER, FeatureSchema, split_files
from nightbid.training.checkpoints import Checkpoints
from nightbid.training.data import Examples, read_examples
from nightbid.training.loop import Training
from nightbid.training.step import TrainingStep
from nightbid.training.validation import validate

PIPELINE = Path(__file__).parents[1] / "include" / "pipelines" / "kuairand_ctr.yaml"


class ByUser(Examples):
    """Rows whose `given` holds the user's number; batches hold several rows of each user."""

    block = 32

    def shuffled(self, size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Examples]:
        draw, count = np.random.default_rng((seed, epoch)), len(self)
        mixed = draw.permutation(count)
        order = mixed[np.argsort(self.given[mixed], kind="stable")]
        users = self.given[order]
        starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
        within = np.arange(count) - np.repeat(starts, np.diff(np.append(starts, count)))
        block = np.cumsum(within % self.block == 0) - 1
        order = order[np.argsort(draw.permutation(block[-1] + 1)[block], kind="stable")]
        for start in range(first * size, count, size):
            yield self.take(order[start : start + size])


class PairStep(TrainingStep):
    """A training step with an additional loss on the order of positives and negatives of a user."""

    strength = 0.0

    def _step(self, columns: list[Any], rate: Any, rows: Any) -> Any:
        *inputs, labels, users, weights = columns
        with tf.GradientTape() as tape:
            outputs = self._network.outputs(inputs, training=True)
            losses = self._network.losses(outputs, labels, tf.ones_like(labels))
            total = tf.reduce_sum(losses * weights)
            z = joint_logit(outputs)
            same = tf.cast(users[:, None] == users[None, :], tf.float32)
            count, positive = tf.reduce_sum(same, 1), tf.linalg.matvec(same, labels)
            row_weight = count / tf.maximum(positive * (count - positive), 1.0)
            pairs = same * labels[:, None] * (1 - labels[None, :]) * row_weight[:, None]
            extra = tf.reduce_sum(pairs * tf.nn.softplus(z[None, :] - z[:, None]))
            objective = tf.add_n([total + self.strength * extra, *self._network.model.losses])
            objective *= 1 / (rows * self._weight)
        self.optimizer.apply(tape.gradient(objective, self._variables), rate)
        return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=CACHE / "accuracy")
    parser.add_argument("--only", default="dcn_v2,deepfm,logistic_regression")
    parser.add_argument("--strengths", default="0,0.05,0.1,0.15")
    parser.add_argument("--average", type=float, default=0.0)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    spec = load_pipeline(PIPELINE)
    settings = spec.train.model_copy(update={"average": options.average})
    rows = next((options.folder / "ws" / "stages" / "kuairand_ctr" / "featurize").iterdir())
    schema = FeatureSchema.load(rows / "fitted")
    layout = Layout(schema)
    plain = read_examples(rows, "train", layout, serving=False)
    newer, judged = (
        read_examples(rows, name, layout, serving=True) for name in ("validate", "evaluate")
    )
    users = {
        name: pq.read_table(split_files(rows, name), columns=[USER], partitioning=None)[USER]
        for name in ("train", "evaluate")
    }
    number = np.unique(users["train"].to_numpy(), return_inverse=True)[1].astype(np.float32)
    ByUser.block = options.block
    for name in options.only.split(","):
        architecture = find(name)
        card = ModelCard(
            architecture=name,
            embedding_dim=spec.model.embedding_dim,
            embedding_l2=spec.model.embedding_l2,
            parameters=architecture.parameters({}),
            prior=float(np.log(plain.rate / (1 - plain.rate))),
            features=schema,
        )
        for strength in map(float, options.strengths.split(",")):
            PairStep.strength = strength
            examples_class = ByUser if strength else Examples
            results = []
            for seed in range(options.seeds):
                network = Network(card, seed=seed)
                train = examples_class(plain.inputs, plain.labels, plain.weights, number)
                training = Training(
                    network, train, newer, settings, step_scale=architecture.step_scale, seed=seed
                )
                if strength:
                    training.step = PairStep(network, train.weight / len(train), settings.average)
                training.run(
                    progress=silent,
                    watch=unwatched,
                    checkpoints=Checkpoints(None, 60, writes=False),
                )
                p = network.score(judged.inputs)
                groups = GroupedScores.of(users["evaluate"].to_numpy(), judged.labels, p)
                results.append((validate(p, judged).log_loss, grouped_auc(groups)))
            loss, area = np.mean(results, axis=0)
            print(f"{name:22} strength {strength:<5} log loss {loss:.5f}  GAUC {area:.4f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
