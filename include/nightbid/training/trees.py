"""Boosting: LightGBM on the featurized rows, with early stopping on newer ones."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from nightbid.models.boosting import lightgbm
from nightbid.models.folder import ModelCard
from nightbid.models.layout import Layout
from nightbid.models.registry import find
from nightbid.models.runtime import THREADS
from nightbid.models.trees import Trees
from nightbid.models.values import POWER
from nightbid.night.progress import EpochWatcher, Progress
from nightbid.training.data import SplitRows
from nightbid.training.elapsed import log_loss
from nightbid.training.elapsed import objective as objective_of
from nightbid.training.memory import MemoryPlan
from nightbid.training.tree_rows import dataset, fitting
from nightbid.training.validation import validated

EVERY = 10
"""Trees between entries of the history."""


def fit_trees(
    card: ModelCard,
    train: SplitRows,
    validation: SplitRows,
    plan: MemoryPlan | None = None,
    *,
    seed: int,
    elapsed: bool = False,
    last: int | None = None,
    progress: Progress,
    watch: EpochWatcher,
) -> tuple[Trees, dict[str, Any]]:
    """Fit a LightGBM model.

    Args:
        card: Architecture and hyperparameters.
        train: Training rows.
        validation: Newer rows, for early stopping.
        plan: Memory plan; required if rows stream.
        seed: Seed of LightGBM's random draws, and of the rows with blanked inputs.
        elapsed: Whether the labels of some training rows are not final.
        last: Number of trees to fit; None means that validation ends the training.
        progress: Progress callback; receives trees, loss and time left.
        watch: Callback that receives the validation metrics every `EVERY` trees.

    Returns:
        The model up to its best tree, and the metrics of its training. With `elapsed`, the
        calibration of its card includes the score that the trees start from.
    """
    layout = Layout(card.features)
    settings: dict[str, Any] = find(card.architecture).build(**card.parameters)
    if last is None:
        stopping = [lightgbm.early_stopping(settings["early_stopping_round"], verbose=False)]
    else:
        # LightGBM would stop by this parameter alone, too.
        del settings["early_stopping_round"]
        settings["num_iterations"], stopping = last, []
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

    train, validation, share = fitting(train, validation, plan, int(settings.get("max_bin", 255)))
    if share < 1:
        progress(0.0, f"{share:.1%} of the rows: the bins of all would not fit, {plan}")
    # Values are divided by their mean, so that penalties weigh the same in any currency.
    unit = np.float32(1.0 if card.value is None else math.exp(-card.prior))
    objective: dict[str, Any] = {"objective": "binary", "metric": "binary_logloss"}
    if card.value is not None:
        objective = {"objective": "tweedie", "metric": "tweedie", "tweedie_variance_power": POWER}
    start = 0.0
    if elapsed:
        # A custom objective starts from a score of 0, LightGBM's own from the label rate.
        start = card.prior
        known = card.calibration.model_copy(
            update={"intercept": card.calibration.intercept + start}
        )
        card = card.model_copy(update={"calibration": known})
        objective = {"objective": objective_of(train.known_shares()), "metric": "None"}
    data, flags = dataset(train, layout, seed=seed)
    flags["label"] = flags["label"] * unit
    begin = np.full(len(train), start) if elapsed else None
    rows = lightgbm.Dataset(data, **flags, init_score=begin, free_raw_data=True)
    # The correction for weighted training rows is not part of a tree, but validation needs it.
    shift = card.calibration.intercept if card.value is None else 0.0
    newer_data, newer_flags = dataset(validation, layout, seed=None)
    newer_flags["label"] = newer_flags["label"] * unit
    newer = rows.create_valid(
        newer_data,
        **newer_flags,
        init_score=np.full(len(validation), shift) if shift else None,
    )
    del data, newer_data  # LightGBM frees them once they are binned
    booster = lightgbm.train(
        {
            **settings,
            **objective,
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
        feval=log_loss if elapsed else None,
        callbacks=[*stopping, follow],
    )
    trees = Trees(card, booster)
    seconds = time.monotonic() - started
    measured = validated(trees.score, validation, values=card.value is not None)
    return trees, {
        "architecture": card.architecture,
        "parameters": trees.parameters,
        "examples_per_second": len(train) * booster.current_iteration() / seconds,
        "epochs": booster.current_iteration(),
        "best_epoch": booster.best_iteration or booster.current_iteration(),
        "history": history,
        "validation": {"auc": measured.auc, "log_loss": measured.log_loss},
        **({"memory": {**plan.metrics, "share": share}} if plan and share < 1 else {}),
    }
