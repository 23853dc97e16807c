"""Boosting: LightGBM on the featurized rows, stopped early on newer ones."""

from __future__ import annotations

import time
from typing import Any

import lightgbm
import numpy as np

from nightbid.models.folder import ModelCard
from nightbid.models.layout import Layout, Packed
from nightbid.models.registry import find
from nightbid.models.runtime import THREADS
from nightbid.models.trees import Trees, tree_matrix
from nightbid.night.progress import EpochWatcher, Progress
from nightbid.training.data import Examples
from nightbid.training.validation import validate

FORGET = 0.1
"""Share of training rows whose training-only inputs are blanked, as they are at serving."""
EVERY = 10
"""Trees between entries of the history."""


def fit_trees(
    card: ModelCard,
    train: Examples,
    validation: Examples,
    *,
    seed: int,
    progress: Progress,
    watch: EpochWatcher,
) -> tuple[Trees, dict[str, Any]]:
    """Fit an ensemble.

    Args:
        card: architecture and hyperparameters.
        train: rows to learn from.
        validation: newer rows, to stop by.
        seed: of the draws of inputs.
        progress: told trees, loss and time left.
        watch: told how good it is, every so many trees.

    Returns:
        The ensemble up to its best tree, and the figures of its training.
    """
    layout = Layout(card.features)
    settings: dict[str, Any] = find(card.architecture).build(**card.parameters)
    planned = int(settings["num_iterations"])
    history: list[dict[str, Any]] = []
    started = time.monotonic()

    def follow(env: Any) -> None:
        done = env.iteration + 1
        spent = time.monotonic() - started
        losses = {name: loss for name, _, loss, *_ in env.evaluation_result_list}
        if done % EVERY == 0 or done == planned:
            history.append(
                {
                    "epoch": done,
                    "loss": losses["train"],
                    "validation_log_loss": losses["validate"],
                    "validation_auc": None,
                    "seconds": round(spent, 3),
                }
            )
            watch(done, losses["validate"], None)
            progress(
                done / planned,
                f"tree {done}/{planned}, loss {losses['validate']:.4f},"
                f" {done * len(train) / spent:,.0f} samples/s,"
                f" {spent / done * (planned - done):.0f} s left",
            )

    rows = lightgbm.Dataset(
        tree_matrix(layout, _forget(layout, train.inputs, seed)),
        train.labels,
        weight=train.weights,
        free_raw_data=True,
    )
    # What undoes the weights of training is no part of a tree, but of how good it is.
    shift = card.calibration.intercept
    newer = rows.create_valid(
        tree_matrix(layout, validation.inputs),
        validation.labels,
        weight=validation.weights,
        init_score=np.full(len(validation), shift) if shift else None,
    )
    booster = lightgbm.train(
        {
            **settings,
            "objective": "binary",
            "metric": "binary_logloss",
            "deterministic": True,
            "force_row_wise": True,
            "use_missing": False,
            "num_threads": THREADS,
            "seed": seed,
            "verbosity": -1,
        },
        rows,
        valid_sets=[rows, newer],
        valid_names=["train", "validate"],
        callbacks=[
            lightgbm.early_stopping(settings["early_stopping_round"], verbose=False),
            follow,
        ],
    )
    trees = Trees(card, booster)
    seconds = time.monotonic() - started
    found = validate(trees.score(validation.inputs), validation)
    return trees, {
        "architecture": card.architecture,
        "parameters": trees.parameters,
        "examples_per_second": len(train) * booster.current_iteration() / seconds,
        "epochs": booster.current_iteration(),
        "best_epoch": booster.best_iteration or booster.current_iteration(),
        "history": history,
        "validation": {"auc": found.auc, "log_loss": found.log_loss},
    }


def _forget(layout: Layout, inputs: Packed, seed: int) -> Packed:
    ids, numbers = inputs.ids, inputs.numbers
    if not len(layout.training_only_places) + len(layout.training_only_numbers):
        return inputs
    forgotten = np.random.default_rng((seed, 0)).random(len(inputs)) < FORGET
    ids, numbers = ids.copy(), numbers.copy()
    ids[np.ix_(forgotten, layout.training_only_places)] = 0
    numbers[np.ix_(forgotten, layout.training_only_numbers)] = 0
    return Packed(ids, numbers, inputs.bag_weights)
