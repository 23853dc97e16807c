"""Trains a network, from nothing or from an earlier model, and writes it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from upath import UPath

from nightbid.models.folder import ModelCard, load_card, save_card, save_weights
from nightbid.models.registry import find
from nightbid.night.incremental import METRIC
from nightbid.night.progress import EpochWatcher, Progress
from nightbid.training.card import calibrated, calibration_metrics
from nightbid.training.checkpoints import Checkpoints
from nightbid.training.data import SplitRows

if TYPE_CHECKING:
    from nightbid.training.incremental import Lesson
    from nightbid.training.job import FitJob

WARM = "warm: the champion's layers, fresh embeddings, half of the epochs"


def fit_network(
    job: FitJob,
    card: ModelCard,
    train: SplitRows,
    validation: SplitRows,
    fitted_on: SplitRows,
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
    network.card = calibrated(card, network, fitted_on, validation, job)
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
        **calibration_metrics(network.card),
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
