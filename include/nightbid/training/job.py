"""One training as plain data that this process or any number of workers can run."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from upath import UPath

from nightbid.config.base import Block
from nightbid.config.models import SMALLEST_BATCH, Model, Train
from nightbid.config.pipeline import Label
from nightbid.errors import ConfigError
from nightbid.models.calibration import Calibration
from nightbid.models.folder import ModelCard, load_card, save_card, save_weights
from nightbid.models.layout import Layout
from nightbid.models.registry import Architecture, find
from nightbid.night.incremental import METRIC, Continuation
from nightbid.night.progress import EpochWatcher, Progress, unwatched
from nightbid.schema import FeatureSchema
from nightbid.training.by_slice import check_slices, fit_offsets
from nightbid.training.calibration import FITTERS, ON_TRAINING_ROWS, as_served, learned_as
from nightbid.training.checkpoints import Checkpoints
from nightbid.training.data import Rows, read_examples
from nightbid.training.distributed import agreed
from nightbid.training.memory import MemoryPlan, plan_memory
from nightbid.training.stream import Stream
from nightbid.training.validation import scored
from nightbid.training.values import scale, value_fields

if TYPE_CHECKING:
    from nightbid.training.incremental import Lesson

WARM = "warm: the champion's layers, fresh embeddings, half of the epochs"


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


class Job(Fit):
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
    job: Job, *, progress: Progress, watch: EpochWatcher, checkpoint_folder: UPath | None = None
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
            lesson = plan_lesson(job, layout, lambda days: _Source.of(job, layout, strategy, days))
    source = _Source.of(job, layout, strategy, lesson.fresh if lesson else ())
    plan, settings = source.plan, lesson.settings if lesson else job.train
    if plan.streams:
        progress(0.0, str(plan))
    as_logged = source.train(serving=False)
    learned = source.train(serving=False, young=True) if job.young else as_logged
    train, undone = learned_as(learned, settings)
    validation = source.validation()
    fitted_on: Rows = validation
    if settings.calibration in ON_TRAINING_ROWS:
        # Use all days even if only one was learned: a single day has few positives.
        of_all = as_logged
        if lesson is not None and lesson.before is not None:
            of_all = _Source.of(job, layout, strategy, lesson.window).train(serving=False)
        fitted_on = as_served(of_all, layout)
    card = ModelCard(
        architecture=job.model.architecture,
        embedding_dim=job.model.embedding_dim,
        embedding_l2=job.model.embedding_l2,
        parameters=parameters,
        features=schema,
        **{"calibration": undone, **_start(job.label, train, architecture)},
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
        both.card = _calibrated(plain, both, fitted_on, validation, job)
        save_card(both.card, folder)
        return {**metrics, **rows_metrics, **_told(both.card)}
    if architecture.engine == "lightgbm":
        from nightbid.training.trees import fit_trees

        trees, metrics = fit_trees(
            card, train, validation, plan,
            seed=job.seed, elapsed=job.young, last=job.last_epoch, progress=inner, watch=watch,
        )  # fmt: skip
        trees.card = _calibrated(trees.card, trees, fitted_on, validation, job)
        save_card(trees.card, folder)
        trees.save(folder)
        return {**rows_metrics, **metrics, **_told(trees.card)}
    network_metrics = _fit_network(
        job, card, train, validation, fitted_on, lesson, strategy,
        progress=inner, watch=watch, checkpoint_folder=checkpoint_folder,
    )  # fmt: skip
    return {**rows_metrics, **network_metrics}


def _fit_network(
    job: Job,
    card: ModelCard,
    train: Rows,
    validation: Rows,
    fitted_on: Rows,
    lesson: Lesson | None,
    strategy: Any,
    *,
    progress: Progress,
    watch: EpochWatcher,
    checkpoint_folder: UPath | None,
) -> dict[str, Any]:
    """Train a network, calibrate it, and write it.

    Args:
        job: Training job.
        card: Model card of the network, not calibrated yet.
        train: Training rows.
        validation: Newer rows, for early stopping.
        fitted_on: Rows that the calibration is fitted to.
        lesson: Plan of an incremental night; None on other nights.
        strategy: Distribution strategy.
        progress: Progress callback.
        watch: Callback that receives the validation metrics after each epoch.
        checkpoint_folder: Folder for checkpoints; None means the job's folder.

    Returns:
        The stage's metrics.
    """
    from nightbid.models.network import Network
    from nightbid.training.loop import Training
    from nightbid.training.tensorboard_log import TensorBoardLogger
    from nightbid.training.warm import save_keys, save_slots, take_all, take_layers, why_cold

    settings = lesson.settings if lesson else job.train
    goes_on = lesson is not None and lesson.before is not None
    known: dict[str, Any] = {}
    cold = "there is no champion"
    if settings.mode == "warm" and job.start is not None:
        cold = why_cold(load_card(job.start / "model"), card)
        if not cold:
            size, epochs = settings.sized(len(train))
            settings = settings.model_copy(update={"batch_size": size, "epochs": -(-epochs // 2)})
    with strategy.scope():
        network = Network(card, seed=job.seed)
        training = Training(
            network,
            train,
            validation,
            settings,
            step_scale=find(job.model.architecture).step_scale,
            seed=job.seed,
            share=lesson.share if lesson else 1.0,
            keep_slots=settings.mode != "full",
            elapsed=job.young,
            last=job.last_epoch,
        )
        optimizer = training.step.optimizer
        if goes_on and job.start is not None:
            rows = take_all(network, optimizer, job.start, job.featurized / "fitted")
            known["embeddings_known"] = rows / network.layout.table_rows
        elif settings.mode == "warm" and job.start is not None and not cold:
            take_layers(network, optimizer, job.start / "model")
        chief = strategy.extended.should_checkpoint
        checkpoints = Checkpoints(
            checkpoint_folder or job.checkpoints, settings.checkpoint_seconds, writes=chief
        )
        with closing(TensorBoardLogger(job.output / "tensorboard" if chief else None)) as board:
            fitted = training.run(
                progress=progress, watch=board.beside(watch), checkpoints=checkpoints
            )
            board.tell(fitted)
    network.card = _calibrated(card, network, fitted_on, validation, job)
    if chief:
        folder = job.output / "model"
        save_card(network.card, folder)
        save_weights(network.weights(), folder)
        if settings.mode != "full":
            save_slots(network, optimizer, folder, tables=lesson is not None)
        if lesson is not None:
            save_keys(job.featurized / "fitted", job.output)
    best = fitted.best
    if lesson is not None:
        from nightbid.training.incremental import said_of

        learned = lesson.learned(fitted.batch_size, best.validation, validation)
        known |= {METRIC: learned.model_dump(mode="json"), "start": said_of(learned)}
    elif settings.mode == "warm":
        known["start"] = f"cold: {cold}" if cold else WARM
    return {
        "architecture": card.architecture,
        "parameters": network.parameters,
        "workers": strategy.num_replicas_in_sync,
        **_told(network.card),
        **known,
        "resumed_at": fitted.resumed_at,
        "examples_per_second": fitted.examples_per_second,
        "input_share": fitted.input_share,
        "epochs": len(fitted.epochs),
        "best_epoch": best.epoch,
        "batch_size": fitted.batch_size,
        "most_epochs": fitted.most_epochs,
        "is_cut_short": fitted.is_cut_short and not goes_on,
        "history": [
            {
                "epoch": epoch.epoch,
                "loss": epoch.loss,
                "validation_log_loss": epoch.validation.log_loss,
                "validation_auc": epoch.validation.auc,
                "seconds": round(epoch.seconds, 3),
            }
            for epoch in fitted.epochs
        ],
        "validation": {"auc": best.validation.auc, "log_loss": best.validation.log_loss},
    }


@dataclass(frozen=True)
class _Source:
    """Reader for the rows of a training, in memory or streamed."""

    featurized: Path
    layout: Layout
    plan: MemoryPlan
    days: tuple[date, ...]

    @classmethod
    def of(cls, job: Job, layout: Layout, strategy: Any, days: tuple[date, ...]) -> _Source:
        also = ("young",) if job.young else ()
        plan = plan_memory(job.featurized, layout, job.train.memory_gb, days, also)
        if strategy is not None:
            plan = replace(plan, streams=agreed(strategy, plan.streams))
        return cls(job.featurized, layout, plan, days)

    def train(self, *, serving: bool, young: bool = False) -> Rows:
        """Read training rows of `days` (empty means all), then the young rows if `young`."""
        also = ("young",) if young else ()
        return self._read("train", self.days, serving=serving, also=also)

    def validation(self) -> Rows:
        """Read validation rows, as served."""
        return self._read("validate", (), serving=True)

    def _read(
        self, split: str, days: tuple[date, ...], *, serving: bool, also: tuple[str, ...] = ()
    ) -> Rows:
        if self.plan.streams:
            return Stream.of(
                self.featurized, split, self.layout, self.plan,
                serving=serving, days=days, also=also,
            )  # fmt: skip
        return read_examples(
            self.featurized, split, self.layout, serving=serving, days=days, also=also
        )


def _calibrated(card: ModelCard, model: Any, rows: Rows, validation: Rows, job: Job) -> ModelCard:
    if job.train.calibration == "none":
        return card
    # The scores include the card's correction already; the card stores what the raw logits need.
    undone = card.calibration.intercept
    if card.value is not None:
        return card.model_copy(update={"calibration": scale(model.score, rows).after(undone)})
    calibration = FITTERS[job.train.calibration](*scored(model.score, rows))
    offsets = fit_offsets(model.score, calibration, validation, model.layout, job.slices)
    calibration = calibration.after(undone).model_copy(update={"offsets": offsets})
    return card.model_copy(update={"calibration": calibration})


def _told(card: ModelCard) -> dict[str, Any]:
    calibration = card.calibration
    return (
        {} if calibration == Calibration() else {"calibration": calibration.model_dump(mode="json")}
    )


def _strategy(architecture: Architecture, train: Train) -> Any:
    """Return the distribution strategy for this process or the workers of TF_CONFIG."""
    if architecture.engine != "tensorflow":
        return None
    from nightbid.training.distributed import strategy_of_environment

    return strategy_of_environment(train.batch_size or SMALLEST_BATCH)


def _start(label: Label, train: Rows, architecture: Architecture) -> dict[str, Any]:
    """Return the fields of the model card that describe its outputs and their initial values."""
    if label.kind == "value":
        fields = value_fields(label, train)
        if architecture.engine == "lightgbm":
            # Trees are trained on values divided by their mean.
            fields["calibration"] = Calibration(intercept=fields["prior"])
        return fields
    tasks = _tasks(label, train) if architecture.multi_task else {}
    return {"prior": _logit(train.rate), **tasks}


def _tasks(label: Label, train: Rows) -> dict[str, Any]:
    """Return the fields of a multi-task model's card: its tasks and their initial logits."""
    given_rate = train.given_rate
    rates = (given_rate, train.rate / given_rate if given_rate else 0.0)
    return {"tasks": (label.given, label.column), "task_priors": tuple(map(_logit, rates))}


def _logit(rate: float) -> float:
    bounded = min(max(rate, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))
