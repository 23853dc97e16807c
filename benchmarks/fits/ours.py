"""Fit with Nightbid's training loop: one fused table, lazy Adam, rows prefetched by a thread."""

import time

import numpy as np
from job import Job, Rows, main
from nightbid.config.models import Train
from nightbid.models.folder import ModelCard
from nightbid.models.layout import Layout, Packed
from nightbid.models.network import Network
from nightbid.models.runtime import tensorflow
from nightbid.night.progress import silent, unwatched
from nightbid.schema import FeatureSchema
from nightbid.training.checkpoints import Checkpoints
from nightbid.training.data import Examples
from nightbid.training.loop import Training


class Timed(Training):
    """Measures the time of validation, which the other engines do not run."""

    apart = 0.0

    def _end_epoch(self, *arguments) -> None:
        clock = time.perf_counter()
        super()._end_epoch(*arguments)
        self.apart += time.perf_counter() - clock


def examples(job: Job, split: str, rows: Rows) -> Examples:
    ones = np.ones(len(rows), np.float32)
    bags = np.load(job.folder / f"{split}-bag_weights.npy")
    return Examples(Packed(rows.ids, rows.numbers, bags), rows.labels, ones, ones, ones)


def fit(job: Job, rows: Rows):
    tensorflow()
    schema = FeatureSchema.model_validate_json((job.folder / "schema.json").read_text())
    train = examples(job, "train", rows)
    card = ModelCard(
        architecture="dcn_v2",
        embedding_dim=job.dim,
        parameters={"cross_layers": job.crosses, "rank": None, "hidden": job.hidden},
        prior=float(np.log(train.rate / (1 - train.rate))),
        features=schema,
    )
    settings = Train(batch_size=job.batch, epochs=job.epochs, patience=job.epochs,
                     learning_rate=job.learning_rate, schedule="constant")  # fmt: skip
    assert Layout(schema).table_rows == job.table_rows
    network = Network(card, seed=0)
    head = train.take(slice(0, job.batch))
    # The other engines end with their last epoch. Patience equals the epochs, so this one does too.
    training = Timed(network, train, head, settings, step_scale=1.0, seed=0)
    training.step(head, 0.0)
    network.score(head.inputs)

    def run() -> dict[str, float]:
        fitted = training.run(progress=silent, watch=unwatched, checkpoints=Checkpoints(None, 1e9))
        return {"apart": training.apart, "input_share": fitted.input_share}

    def score(rows: Rows) -> np.ndarray:
        return network.score(examples(job, "newer", rows).inputs)

    return run, score


if __name__ == "__main__":
    main(fit)
