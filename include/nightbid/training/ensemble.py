"""Fit an ensemble: train each member separately, then fit the weights of their logits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from nightbid.models.ensemble import MEMBERS, Ensemble, logits
from nightbid.models.folder import ModelCard, save_card
from nightbid.models.predict import load_model
from nightbid.models.registry import find
from nightbid.night.progress import Progress
from nightbid.training.data import Examples, SplitRows, every_so_many
from nightbid.training.validation import validated

if TYPE_CHECKING:
    from nightbid.training.job import FitJob

Floats = npt.NDArray[np.float64]
MOST_ROWS = 1_000_000
"""Maximum number of validation rows that the member weights are fitted to if rows stream."""


def fit_ensemble(
    job: FitJob,
    card: ModelCard,
    validation: SplitRows,
    *,
    train: Callable[[FitJob, Progress], dict[str, Any]],
    progress: Progress,
) -> tuple[Ensemble, dict[str, Any]]:
    """Train every member, then fit their weights on validation rows.

    Args:
        job: Training job of the ensemble.
        card: Architecture and hyperparameters.
        validation: Rows newer than the training rows.
        train: Function that trains a member and returns its metrics.
        progress: Progress callback.

    Returns:
        The ensemble, and the metrics of its training.
    """
    members: dict[str, dict[str, Any]] = find(card.architecture).build(**card.parameters)
    folder = job.output / "model" / MEMBERS
    folder.mkdir(parents=True)
    member_metrics: dict[str, dict[str, Any]] = {}
    models = {}
    for number, (name, parameters) in enumerate(members.items()):

        def inner(done: float, message: str = "", at: int = number, name: str = name) -> None:
            progress((at + done) / len(members), f"{name}: {message}")

        alone = job.output / f"member-{name}"
        alone.mkdir()
        model = job.model.model_copy(update={"architecture": name, "parameters": parameters})
        settings = job.train.model_copy(update={"calibration": "none", "mode": "full"})
        member = job.model_copy(
            update={
                "model": model,
                "train": settings,
                "output": alone,
                "checkpoints": job.checkpoints / name if job.checkpoints else None,
                "champion": None,
            }
        )
        member_metrics[name] = train(member, inner)
        shutil.move(alone / "model", folder / name)
        if (alone / "tensorboard").exists():
            (job.output / "tensorboard").mkdir(exist_ok=True)
            shutil.move(alone / "tensorboard", job.output / "tensorboard" / name)
        shutil.rmtree(alone)
        models[name] = load_model(folder / name)
    # If rows stream, the weights are fitted to a sample that fits in memory.
    some = validation
    if not isinstance(some, Examples):
        some = every_so_many(validation, MOST_ROWS)
    weights = fit_weights({name: model.score(some.inputs) for name, model in models.items()}, some)
    ensemble = Ensemble(card, models, weights)
    save_card(card, job.output / "model")
    ensemble.save(job.output / "model")
    best = validated(ensemble.score, validation)
    slowest = min(metrics["examples_per_second"] for metrics in member_metrics.values())
    return ensemble, {
        "architecture": card.architecture,
        "parameters": sum(int(metrics["parameters"]) for metrics in member_metrics.values()),
        "weights": weights,
        "members": {
            name: {key: metrics[key] for key in ("parameters", "validation", "best_epoch")}
            for name, metrics in member_metrics.items()
        },
        "examples_per_second": slowest,
        "epochs": max(int(metrics["epochs"]) for metrics in member_metrics.values()),
        "best_epoch": max(int(metrics["best_epoch"]) for metrics in member_metrics.values()),
        "history": [],
        "validation": {"auc": best.auc, "log_loss": best.log_loss},
    }


def fit_weights(scores: Mapping[str, Floats], rows: Examples) -> dict[str, float]:
    """Find member weights that minimize the log loss of the weighted mean of their logits.

    Args:
        scores: Member → [rows] probabilities.
        rows: Rows with labels and weights.

    Returns:
        Member → weight, at least 0; the weights add up to 1.
    """
    z = np.stack([logits(score) for score in scores.values()])
    labels, mass = rows.labels.astype(np.float64), rows.weights.astype(np.float64)
    mass = mass / mass.sum()

    def loss(weights: Floats) -> tuple[float, Floats]:
        mixed = weights @ z
        value = float(mass @ (np.logaddexp(0, mixed) - labels * mixed))
        return value, z @ (mass * (1 / (1 + np.exp(-mixed)) - labels))

    size = len(z)
    solution = minimize(
        loss,
        np.full(size, 1 / size),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(size)},
    )
    weights = np.clip(solution.x, 0.0, None)
    weights = weights / weights.sum()
    return dict(zip(scores, weights.tolist(), strict=True))
