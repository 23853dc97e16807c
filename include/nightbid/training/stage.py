"""Train: fit a registered architecture to the featurized rows."""

from __future__ import annotations

import math
from typing import Any

from nightbid.config.models import Model
from nightbid.config.pipeline import Label
from nightbid.errors import ConfigError
from nightbid.manifest import Rows
from nightbid.models.folder import ModelCard, save_card, save_weights
from nightbid.models.layout import Layout
from nightbid.models.registry import Architecture, find
from nightbid.schema import FeatureSchema
from nightbid.stage import Outcome, StageTask
from nightbid.training.data import Examples, read_examples


def run(task: StageTask) -> Outcome:
    """Train the candidate, `model` of the pipeline."""
    return _train(task, task.spec.model)


def run_baseline(task: StageTask) -> Outcome:
    """Train the yardstick, `baseline` of the pipeline."""
    return _train(task, task.spec.baseline)


def _train(task: StageTask, model: Model) -> Outcome:
    architecture = find(model.architecture)
    parameters = architecture.parameters(model.parameters)
    featurized = task.inputs["featurize"].path
    schema = FeatureSchema.load(featurized / "fitted")
    layout = Layout(schema)
    task.progress(0.0, "reading featurized rows")
    train = read_examples(featurized, "train", layout, serving=False)
    validation = read_examples(featurized, "validate", layout, serving=True)
    if architecture.multi_task and not task.spec.label.entire_space:
        raise ConfigError(
            f"{model.architecture} learns from every impression, and only those with the"
            " condition are kept",
            where="label",
            hint="set label.given and label.entire_space: true",
        )
    card = ModelCard(
        architecture=model.architecture,
        embedding_dim=model.embedding_dim,
        embedding_l2=model.embedding_l2,
        parameters=parameters,
        prior=_logit(train.rate),
        **_tasks(task.spec.label, train) if architecture.multi_task else {},
        features=schema,
    )
    metrics = _fit(task, card, architecture, train, validation)
    best = metrics["validation"]
    steps = "trees" if architecture.engine == "lightgbm" else "epochs"
    return Outcome(
        rows=Rows(read=len(train) + len(validation), written=len(train) + len(validation)),
        metrics=metrics,
        summary=f"{model.architecture}, {metrics['parameters']:,} parameters,"
        f" best of {metrics['epochs']} {steps} is {metrics['best_epoch']}:"
        f" validation log loss {best['log_loss']:.4f}"
        + (f", AUC {best['auc']:.4f}" if best["auc"] is not None else "")
        + f", {metrics['examples_per_second']:,.0f} samples/s",
    )


def _fit(
    task: StageTask,
    card: ModelCard,
    architecture: Architecture,
    train: Examples,
    validation: Examples,
) -> dict[str, Any]:
    folder = task.output / "model"
    seed = task.spec.seed + task.spec.train.seed

    def progress(done: float, message: str = "") -> None:
        task.progress(0.05 + 0.93 * done, message)

    save_card(card, folder)
    if architecture.engine == "lightgbm":
        from nightbid.training.trees import fit_trees

        trees, metrics = fit_trees(
            card, train, validation, seed=seed, progress=progress, watch=task.watch
        )
        trees.save(folder)
        return metrics
    from nightbid.models.network import Network
    from nightbid.training.loop import fit

    network = Network(card, seed=seed)
    fitted = fit(
        network,
        train,
        validation,
        task.spec.train,
        step_scale=architecture.step_scale,
        seed=seed,
        progress=progress,
        watch=task.watch,
    )
    save_weights(network.weights(), folder)
    return {
        "architecture": card.architecture,
        "parameters": network.parameters,
        "examples_per_second": fitted.examples_per_second,
        "epochs": len(fitted.epochs),
        "best_epoch": fitted.best.epoch,
        "history": [
            {
                "epoch": each.epoch,
                "loss": each.loss,
                "validation_log_loss": each.validation.log_loss,
                "validation_auc": each.validation.auc,
                "seconds": round(each.seconds, 3),
            }
            for each in fitted.epochs
        ],
        "validation": {
            "auc": fitted.best.validation.auc,
            "log_loss": fitted.best.validation.log_loss,
        },
    }


def _tasks(label: Label, train: Examples) -> dict[str, Any]:
    """What a multi-task model's card says of its tasks: where each starts from."""
    given = train.given_rate
    rates = (given, train.rate / given if given else 0.0)
    return {"tasks": (label.given, label.column), "task_priors": tuple(map(_logit, rates))}


def _logit(rate: float) -> float:
    kept = min(max(rate, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))
