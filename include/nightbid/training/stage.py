"""Train: fit a registered architecture to the featurized rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nightbid.config.models import Model, Train
from nightbid.counts import counted
from nightbid.errors import ConfigError
from nightbid.models.registry import find
from nightbid.night.manifest import RowCounts
from nightbid.night.task import Outcome, StageInput, StageTask
from nightbid.training.job import Fit, FitJob, run_job
from nightbid.training.workers import launch


@dataclass(frozen=True)
class TrainingRequest:
    """A training that a stage requests; it is validated before any worker starts."""

    fit: Fit
    start: StageInput | None
    """Earlier output to start from: the champion's bundle, or an incremental night's state."""

    @property
    def trees(self) -> bool:
        """Whether LightGBM fits the model."""
        return find(self.fit.model.architecture).engine == "lightgbm"

    @property
    def alone(self) -> bool:
        """Whether the model is trained in one process and from scratch."""
        return find(self.fit.model.architecture).engine != "tensorflow"

    @property
    def workers(self) -> int:
        """Number of workers that share each batch."""
        return 1 if self.alone else self.fit.train.workers


def asked_candidate(task: StageTask) -> TrainingRequest:
    """Request a training of the candidate, the pipeline's `model`."""
    return _asked(task, task.spec.model, task.spec.train)


def asked_baseline(task: StageTask) -> TrainingRequest:
    """Request a training of the pipeline's `baseline`, incremental if the candidate's is."""
    settings = task.spec.train
    known = find(task.spec.baseline.architecture)
    if settings.mode == "warm" or known.engine != "tensorflow":
        settings = settings.model_copy(update={"mode": "full"})
    return _asked(task, task.spec.baseline, settings)


def _asked(task: StageTask, model: Model, settings: Train) -> TrainingRequest:
    known = find(model.architecture)
    parameters = known.parameters(model.parameters)
    if known.engine == "ensemble":
        known.build(**parameters)  # raises if the members cannot be combined
    fit = Fit(
        model=model,
        train=settings,
        label=task.spec.label,
        seed=task.spec.seed + settings.seed,
        continuation=task.continuation if settings.mode == "incremental" else None,
        slices={
            name: getattr(task.spec.features[name], "oov_buckets", 0)
            for name in settings.calibration_slices
        },
    )
    start = {"warm": "champion", "incremental": "state"}.get(settings.mode, "")
    requested = TrainingRequest(fit, task.inputs.get(start))
    if requested.alone and settings.mode != "full":
        raise ConfigError(
            f"{model.architecture} cannot start from earlier weights",
            where=f"train.mode: {settings.mode}",
            hint="set it to full for trees and ensembles",
        )
    return requested


def run(task: StageTask) -> Outcome:
    """Train the candidate on this machine."""
    return _train(task, asked_candidate(task))


def run_baseline(task: StageTask) -> Outcome:
    """Train the baseline on this machine; a baseline that is a column of the logs needs none."""
    if column := task.spec.baseline.column:
        (task.output / "baseline.json").write_text(json.dumps({"column": column}))
        return Outcome(
            metrics={"column": column},
            summary=f"no training: the baseline is the column {column} of the logs",
        )
    return _train(task, asked_baseline(task))


def _train(task: StageTask, requested: TrainingRequest) -> Outcome:
    job = FitJob(
        **{name: getattr(requested.fit, name) for name in Fit.model_fields},
        featurized=task.inputs["featurize"].path,
        output=task.output,
        checkpoints=task.checkpoints,
        start=requested.start.path if requested.start else None,
    )
    if requested.workers > 1:
        metrics = launch(job, requested.workers, progress=task.progress, watch=task.watch)
    else:
        metrics = run_job(job, progress=task.progress, watch=task.watch)
    return outcome_of(requested, metrics)


def outcome_of(requested: TrainingRequest, metrics: dict[str, Any]) -> Outcome:
    """Convert the metrics of a training, wherever it ran, into the stage's outcome."""
    rows, best = metrics.pop("rows"), metrics["validation"]
    loss = "deviance" if requested.fit.label.kind == "value" else "log loss"
    return Outcome(
        rows=RowCounts(read=rows, written=rows),
        metrics=metrics,
        volatile=("tensorboard/",),
        summary=f"{requested.fit.model.architecture},"
        f" {counted(metrics['parameters'], 'parameter')},"
        f" best of {counted(metrics['epochs'], 'tree' if requested.trees else 'epoch')} is"
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
        + (f", {metrics['start']}" if "start" in metrics else "")
        + (f", resumed at {at:.0%}" if (at := metrics.get("resumed_at")) else ""),
    )


def _memory(memory: dict[str, Any]) -> str:
    if not memory.get("streams"):
        return ""
    share = f" of {memory['share']:.1%}" if "share" in memory else ""
    return (
        f", rows stream{share}: {memory['estimated_gb']:.3g} GB in memory would be more than"
        f" train.memory_gb {memory['limit_gb']:.3g}"
    )


def _weights(weights: dict[str, float]) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
