"""Fit the trees of Nightbid's pipelines on the same rows; `samples` are rows times trees."""

import numpy as np
from job import Job, Rows, main
from nightbid.models.folder import ModelCard
from nightbid.models.layout import Packed
from nightbid.models.registry import find
from nightbid.night.progress import silent, unwatched
from nightbid.schema import FeatureSchema
from nightbid.training.data import Examples
from nightbid.training.trees import fit_trees


def examples(job: Job, split: str, rows: Rows) -> Examples:
    ones = np.ones(len(rows), np.float32)
    bags = np.load(job.folder / f"{split}-bag_weights.npy")
    return Examples(Packed(rows.ids, rows.numbers, bags), rows.labels, ones, ones, ones)


def fit(job: Job, rows: Rows):
    schema = FeatureSchema.model_validate_json((job.folder / "schema.json").read_text())
    parameters = find("gradient_boosted_trees").parameters({"trees": 100})
    card = ModelCard(architecture="gradient_boosted_trees", embedding_dim=1,
                     parameters=parameters, prior=0.0, features=schema)  # fmt: skip
    train = examples(job, "train", rows)
    fitted = []

    def run() -> dict[str, float]:
        model, outcome = fit_trees(
            card, train, examples(job, "newer", job.rows("newer")), seed=0,
            progress=silent, watch=unwatched,
        )  # fmt: skip
        fitted.append(model)
        return {"passes": outcome["epochs"]}

    def score(rows: Rows) -> np.ndarray:
        return fitted[0].score(examples(job, "newer", rows).inputs)

    return run, score


if __name__ == "__main__":
    main(fit)
