"""Train: fit a registered architecture to the featurized rows."""

from __future__ import annotations

from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError
from nightbid.manifest import Rows
from nightbid.models.registry import find
from nightbid.stage import Outcome, StageTask
from nightbid.training.job import Job, run_job
from nightbid.training.workers import launch


def run(task: StageTask) -> Outcome:
    """Train the candidate, `model` of the pipeline."""
    return _train(task, task.spec.model, task.spec.train)


def run_baseline(task: StageTask) -> Outcome:
    """Train the yardstick, `baseline` of the pipeline; it begins anew each night."""
    cold = task.spec.train.model_copy(update={"warm_start": False})
    return _train(task, task.spec.baseline, cold)


def _train(task: StageTask, model: Model, settings: Train) -> Outcome:
    champion = task.inputs.get("champion") if settings.warm_start else None
    job = Job(
        model=model,
        train=settings,
        label=task.spec.label,
        seed=task.spec.seed + settings.seed,
        featurized=task.inputs["featurize"].path,
        output=task.output,
        checkpoints=task.checkpoints,
        champion=champion.path if champion else None,
    )
    architecture = find(model.architecture)
    architecture.parameters(model.parameters)  # what is wrong is said before workers start
    trees = architecture.engine == "lightgbm"
    if trees and settings.warm_start:
        raise ConfigError(
            f"{model.architecture} cannot begin with the champion's weights",
            where="train.warm_start",
            hint="set it to false for trees",
        )
    if settings.workers > 1 and not trees:
        metrics = launch(job, settings.workers, progress=task.progress, watch=task.watch)
    else:
        metrics = run_job(job, progress=task.progress, watch=task.watch)
    rows, best = metrics.pop("rows"), metrics["validation"]
    return Outcome(
        rows=Rows(read=rows, written=rows),
        metrics=metrics,
        volatile=("tensorboard/",),
        summary=f"{model.architecture}, {metrics['parameters']:,} parameters,"
        f" best of {metrics['epochs']} {'trees' if trees else 'epochs'} is"
        f" {metrics['best_epoch']}: validation log loss {best['log_loss']:.4f}"
        + (f", AUC {best['auc']:.4f}" if best["auc"] is not None else "")
        + f", {metrics['examples_per_second']:,.0f} samples/s"
        + (f" by {metrics['workers']} workers" if metrics.get("workers", 1) > 1 else "")
        + (f", {metrics['warm_start']}" if "warm_start" in metrics else "")
        + (f", resumed at {at:.0%}" if (at := metrics.get("resumed_at")) else ""),
    )
