"""Train: fit a registered architecture to the featurized rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError
from nightbid.models.registry import find
from nightbid.night.manifest import Rows
from nightbid.night.task import Outcome, StageInput, StageTask
from nightbid.training.job import Fit, Job, run_job
from nightbid.training.workers import launch


@dataclass(frozen=True)
class TrainingRequest:
    """What a stage wants trained, checked: what is wrong is said before workers start."""

    fit: Fit
    champion: StageInput | None
    """To start from."""

    @property
    def trees(self) -> bool:
        """Whether LightGBM fits it."""
        return find(self.fit.model.architecture).engine == "lightgbm"

    @property
    def alone(self) -> bool:
        """Whether it is trained in one process, and from scratch."""
        return find(self.fit.model.architecture).engine != "tensorflow"

    @property
    def workers(self) -> int:
        """How many share each batch."""
        return 1 if self.alone else self.fit.train.workers


def asked_candidate(task: StageTask) -> TrainingRequest:
    """The candidate, `model` of the pipeline."""
    return _asked(task, task.spec.model, task.spec.train)


def asked_baseline(task: StageTask) -> TrainingRequest:
    """Train the pipeline's `baseline`, from scratch each night."""
    cold = task.spec.train.model_copy(update={"warm_start": False})
    return _asked(task, task.spec.baseline, cold)


def _asked(task: StageTask, model: Model, settings: Train) -> TrainingRequest:
    known = find(model.architecture)
    parameters = known.parameters(model.parameters)
    if known.engine == "ensemble":
        known.build(**parameters)  # refuses members that cannot be combined
    fit = Fit(
        model=model,
        train=settings,
        label=task.spec.label,
        seed=task.spec.seed + settings.seed,
    )
    requested = TrainingRequest(fit, task.inputs.get("champion") if settings.warm_start else None)
    if requested.alone and settings.warm_start:
        raise ConfigError(
            f"{model.architecture} cannot begin with the champion's weights",
            where="train.warm_start",
            hint="set it to false for trees and ensembles",
        )
    return requested


def run(task: StageTask) -> Outcome:
    """Train the candidate on this machine."""
    return _train(task, asked_candidate(task))


def run_baseline(task: StageTask) -> Outcome:
    """Train the baseline on this machine; a score in the logs needs no training."""
    if column := task.spec.baseline.column:
        (task.output / "baseline.json").write_text(json.dumps({"column": column}))
        return Outcome(
            metrics={"column": column},
            summary=f"no training: the baseline is the column {column} of the logs",
        )
    return _train(task, asked_baseline(task))


def _train(task: StageTask, requested: TrainingRequest) -> Outcome:
    job = Job(
        **{name: getattr(requested.fit, name) for name in Fit.model_fields},
        featurized=task.inputs["featurize"].path,
        output=task.output,
        checkpoints=task.checkpoints,
        champion=requested.champion.path if requested.champion else None,
    )
    if requested.workers > 1:
        metrics = launch(job, requested.workers, progress=task.progress, watch=task.watch)
    else:
        metrics = run_job(job, progress=task.progress, watch=task.watch)
    return outcome_of(requested, metrics)


def outcome_of(requested: TrainingRequest, metrics: dict[str, Any]) -> Outcome:
    """Tell what a training, wherever it ran, has come to."""
    rows, best = metrics.pop("rows"), metrics["validation"]
    loss = "deviance" if requested.fit.label.kind == "value" else "log loss"
    return Outcome(
        rows=Rows(read=rows, written=rows),
        metrics=metrics,
        volatile=("tensorboard/",),
        summary=f"{requested.fit.model.architecture}, {metrics['parameters']:,} parameters,"
        f" best of {metrics['epochs']} {'trees' if requested.trees else 'epochs'} is"
        f" {metrics['best_epoch']}: validation {loss} {best['log_loss']:.4f}"
        + (f", AUC {best['auc']:.4f}" if best["auc"] is not None else "")
        + f", {metrics['examples_per_second']:,.0f} samples/s"
        + (
            ", the last allowed epoch was the best: train.epochs may be too few"
            if metrics.get("is_cut_short")
            else ""
        )
        + (f", weights {_weights(metrics['weights'])}" if "weights" in metrics else "")
        + (f" by {metrics['workers']} workers" if metrics.get("workers", 1) > 1 else "")
        + _memory(metrics.get("memory", {}))
        + (f", {metrics['warm_start']}" if "warm_start" in metrics else "")
        + (f", resumed at {at:.0%}" if (at := metrics.get("resumed_at")) else ""),
    )


def _memory(found: dict[str, Any]) -> str:
    if not found.get("streams"):
        return ""
    share = f" of {found['share']:.1%}" if "share" in found else ""
    return (
        f", rows stream{share}: {found['estimated_gb']:.3g} GB in memory would be more than"
        f" train.memory_gb {found['limit_gb']:.3g}"
    )


def _weights(weights: dict[str, float]) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
