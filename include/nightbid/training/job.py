"""One training as plain data that this process or any number of workers can run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import Field
from upath import UPath

from nightbid.config.base import Block
from nightbid.config.models import SMALLEST_BATCH, Model, Train
from nightbid.config.pipeline import Label
from nightbid.errors import ConfigError
from nightbid.models.calibration import Calibration
from nightbid.models.folder import ModelCard, save_card
from nightbid.models.layout import Layout
from nightbid.models.registry import Architecture, find
from nightbid.night.incremental import Continuation
from nightbid.night.progress import EpochWatcher, Progress, unwatched
from nightbid.schema import FeatureSchema
from nightbid.training.by_slice import check_slices
from nightbid.training.calibration import ON_TRAINING_ROWS, as_served, learned_as
from nightbid.training.card import calibrated, calibration_metrics, start_fields
from nightbid.training.data import SplitRows, read_examples
from nightbid.training.distributed import agreed
from nightbid.training.memory import MemoryPlan, plan_memory
from nightbid.training.network import fit_network
from nightbid.training.stream import Stream


class Fit(Block):
    """What to train: model, settings, label and seed."""

    model: Model
    train: Train
    label: Label
    seed: int
    continuation: Continuation | None = None
    """State that an incremental night continues from; None if the night is not incremental."""
    slices: dict[str, int] = Field(default_factory=dict)
    """Input whose values get an offset of the logit → number of its out-of-vocabulary ids."""


class FitJob(Fit):
    """What to train, on which rows, and where to write the model."""

    featurized: Path
    """Output folder of the featurize stage; every worker reads it."""
    output: Path
    """Folder in which the first worker writes `model/`."""
    checkpoints: Path | None = None
    young: bool = False
    """Whether to train on the split `young` too, whose labels are not final."""
    last_epoch: int | None = Field(default=None, ge=1)
    """Number of epochs (trees) to train; None means that validation ends the training."""
    start: Path | None = None
    """Folder with an earlier `model/` to start from: the champion's bundle, or the output of an
    earlier training; see `nightbid.training.warm`."""


def run_job(
    job: FitJob, *, progress: Progress, watch: EpochWatcher, checkpoint_folder: UPath | None = None
) -> dict[str, Any]:
    """Train and write the model.

    Args:
        job: Training job to run.
        progress: Progress callback.
        watch: Callback that receives the validation metrics after each epoch.
        checkpoint_folder: Folder for checkpoints; None means the job's folder.

    Returns:
        The stage's metrics.

    Raises:
        ConfigError: The architecture does not fit the label or its hyperparameters.
        MissingDataError: A split has no rows.
    """
    architecture = find(job.model.architecture)
    parameters = architecture.parameters(job.model.parameters)
    if architecture.multi_task and not job.label.entire_space:
        raise ConfigError(
            f"{job.model.architecture} learns from every impression, but only those that meet "
            "the condition are kept",
            where="label",
            hint="set label.given and label.entire_space: true",
        )
    if job.label.kind == "value" and (architecture.multi_task or architecture.engine == "ensemble"):
        raise ConfigError(
            f"{job.model.architecture} predicts probabilities only, but label.kind is value",
            where="model.architecture",
            hint="use another architecture, such as dcn_v2",
        )
    if architecture.multi_task and (
        job.train.sampling_correction or job.train.positive_weight != 1
    ):
        raise ConfigError(
            f"{job.model.architecture} has two labels, and no one formula undoes their weights",
            where="train",
            hint="keep the defaults of sampling_correction and positive_weight",
        )
    strategy = _strategy(architecture, job.train)
    progress(0.0, "reading featurized rows")
    schema = FeatureSchema.load(job.featurized / "fitted")
    layout = Layout(schema)
    check_slices(layout, job.slices)
    lesson = None
    if job.continuation is not None:
        from nightbid.training.incremental import plan_lesson

        with strategy.scope():
            lesson = plan_lesson(
                job, layout, lambda days: _FeaturizedSource.of(job, layout, strategy, days)
            )
    source = _FeaturizedSource.of(job, layout, strategy, lesson.fresh if lesson else ())
    plan, settings = source.plan, lesson.settings if lesson else job.train
    if plan.streams:
        progress(0.0, str(plan))
    as_logged = source.train(serving=False)
    learned = source.train(serving=False, young=True) if job.young else as_logged
    train, undone = learned_as(learned, settings)
    validation = source.validation()
    fitted_on: SplitRows = validation
    if settings.calibration in ON_TRAINING_ROWS:
        # Use all days even if only one was learned: a single day has few positives.
        of_all = as_logged
        if lesson is not None and lesson.before is not None:
            of_all = _FeaturizedSource.of(job, layout, strategy, lesson.window).train(serving=False)
        fitted_on = as_served(of_all, layout)
    card = ModelCard(
        architecture=job.model.architecture,
        embedding_dim=job.model.embedding_dim,
        embedding_l2=job.model.embedding_l2,
        parameters=parameters,
        features=schema,
        **{"calibration": undone, **start_fields(job.label, train, architecture)},
    )
    if lesson is not None and lesson.old is not None:
        # The weights of the earlier state were trained with these values.
        same = ("prior", "tasks", "task_priors")
        card = card.model_copy(update={name: getattr(lesson.old, name) for name in same})

    def inner(done: float, message: str = "") -> None:
        progress(0.05 + 0.93 * done, message)

    folder = job.output / "model"
    rows_metrics = {"rows": len(train) + len(validation), "memory": plan.metrics}
    if architecture.engine == "ensemble":
        from nightbid.training.ensemble import fit_ensemble

        # The correction for weighted training rows is part of each member.
        plain = card.model_copy(update={"calibration": Calibration()})
        both, metrics = fit_ensemble(
            job,
            plain,
            validation,
            train=lambda member, inside: run_job(
                member,
                progress=inside,
                watch=unwatched,
                checkpoint_folder=checkpoint_folder and checkpoint_folder / member.output.name,
            ),
            progress=inner,
        )
        both.card = calibrated(plain, both, fitted_on, validation, job)
        save_card(both.card, folder)
        return {**metrics, **rows_metrics, **calibration_metrics(both.card)}
    if architecture.engine == "lightgbm":
        from nightbid.training.trees import fit_trees

        trees, metrics = fit_trees(
            card, train, validation, plan,
            seed=job.seed, elapsed=job.young, last=job.last_epoch, progress=inner, watch=watch,
        )  # fmt: skip
        trees.card = calibrated(trees.card, trees, fitted_on, validation, job)
        save_card(trees.card, folder)
        trees.save(folder)
        return {**rows_metrics, **metrics, **calibration_metrics(trees.card)}
    network_metrics = fit_network(
        job, card, train, validation, fitted_on, lesson, strategy,
        progress=inner, watch=watch, checkpoint_folder=checkpoint_folder,
    )  # fmt: skip
    return {**rows_metrics, **network_metrics}


@dataclass(frozen=True)
class _FeaturizedSource:
    """Reader for the rows of a training, in memory or streamed."""

    featurized: Path
    layout: Layout
    plan: MemoryPlan
    days: tuple[date, ...]

    @classmethod
    def of(
        cls, job: FitJob, layout: Layout, strategy: Any, days: tuple[date, ...]
    ) -> _FeaturizedSource:
        also = ("young",) if job.young else ()
        plan = plan_memory(job.featurized, layout, job.train.memory_gb, days, also)
        if strategy is not None:
            plan = replace(plan, streams=agreed(strategy, plan.streams))
        return cls(job.featurized, layout, plan, days)

    def train(self, *, serving: bool, young: bool = False) -> SplitRows:
        """Read training rows of `days` (empty means all), then the young rows if `young`."""
        also = ("young",) if young else ()
        return self._read("train", self.days, serving=serving, also=also)

    def validation(self) -> SplitRows:
        """Read validation rows, as served."""
        return self._read("validate", (), serving=True)

    def _read(
        self, split: str, days: tuple[date, ...], *, serving: bool, also: tuple[str, ...] = ()
    ) -> SplitRows:
        if self.plan.streams:
            return Stream.of(
                self.featurized, split, self.layout, self.plan,
                serving=serving, days=days, also=also,
            )  # fmt: skip
        return read_examples(
            self.featurized, split, self.layout, serving=serving, days=days, also=also
        )


def _strategy(architecture: Architecture, train: Train) -> Any:
    """Return the distribution strategy for this process or the workers of TF_CONFIG."""
    if architecture.engine != "tensorflow":
        return None
    from nightbid.training.distributed import strategy_of_environment

    return strategy_of_environment(train.batch_size or SMALLEST_BATCH)
