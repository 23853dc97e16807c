"""Models and training: the typed `model`, `baseline`, `train` blocks."""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import Field, model_validator

from nightbid.config.base import Block

log = logging.getLogger(__name__)


class Model(Block):
    """A registered architecture and its hyperparameters."""

    architecture: str = "dcn_v2"
    """Name of a registered architecture; docs/models.md lists them."""
    embedding_dim: int = Field(default=16, ge=1)
    """Length of the embedding vector of each id."""
    embedding_l2: float = Field(default=100.0, ge=0)
    """½·l2·w² per embedding weight is added to the log loss of all training rows: a normal prior
    with standard deviation 1/√l2."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the architecture's function."""


class Baseline(Model):
    """The baseline: a model that is trained each night, or a score that the logs already have.

    With `column`, the score of another platform's model is the baseline, and the first champion to
    beat: on the same rows, with the same intervals and money. It is never served or promoted.
    """

    column: str | None = None
    """Column of the logs with another platform's predicted probability, 0 to 1; excludes the keys
    of a model."""
    unscored: float = Field(default=0.01, ge=0, lt=1)
    """With `column`: share of evaluate rows without a score that is left out and counted; more
    fail the evaluation."""

    @model_validator(mode="before")
    @classmethod
    def _a_model_will_do(cls, value: Any) -> Any:
        return value.model_dump() if isinstance(value, Model) else value

    @model_validator(mode="after")
    def _a_column_is_no_model(self) -> Baseline:
        if self.column is None:
            return self
        if extra := sorted(self.model_fields_set & set(Model.model_fields)):
            raise ValueError(
                f"baseline.column is a score in the logs, so there is nothing to train; remove"
                f" baseline.{extra[0]}"
            )
        return self

    @property
    def name(self) -> str:
        """What it is called where models are listed."""
        return self.column or self.architecture


LARGEST_BATCH, SMALLEST_BATCH = 2048, 128
FEWEST_EPOCHS, MOST_EPOCHS = 3, 20


class Train(Block):
    """How a model is fitted."""

    batch_size: int | None = Field(default=None, ge=1)
    """Rows per step. Default: 2048, or less where neither it nor `epochs` is set and there are too
    few rows for `least_steps`."""
    epochs: int | None = Field(default=None, ge=1)
    """Maximum number of passes over the training rows. Default: 3, or as many as `least_steps`
    takes, at most 20."""
    least_steps: int = Field(default=500, ge=0)
    """Without `epochs`: number of steps that are planned at least. On few rows batches become
    smaller, down to 128 rows, and epochs more; `patience` still ends training early."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """How the learning rate falls from its peak to 0 at the end of the last epoch."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps during which the learning rate rises from 0 to its peak."""
    reset_tables: Literal["none", "each_epoch"] = "none"
    """When embedding tables start over: `each_epoch` gives every epoch fresh embeddings while the
    other layers go on learning (MEDA), so that ids cannot be overfitted over many epochs."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, for example 0.99. The average
    is validated and served. 0 serves the weights of the last step."""
    patience: int = Field(default=1, ge=0)
    """Epochs without a better validation log loss before training ends."""
    calibration: Literal["none", "rate", "platt", "isotonic", "by_slice"] = "none"
    """After training: `rate` shifts all logits so that the mean prediction of the training rows,
    fed as at serving, is their label rate; `platt` fits a line over the logits and `isotonic` a
    rising curve, on validation rows; `by_slice` is `rate`, and a shrunken offset for each value of
    the `calibration_slices`, on validation rows."""
    calibration_slices: tuple[str, ...] = ()
    """With `calibration: by_slice`: features with one id per row (`vocabulary`, `hour`, `buckets`
    and so on) whose values get an offset."""
    sampling_correction: bool = False
    """Train on sampled negatives without their weight and correct the probability afterwards:
    q = p / (p + (1 - p)/w), where w is the share of negatives kept. False: train with weights."""
    positive_weight: float = Field(default=1.0, gt=0)
    """Weight of a positive in training; the predicted probability is corrected for it."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Seconds between checkpoints: the most work that a killed training has to repeat."""
    mode: Literal["full", "warm", "incremental"] = "full"
    """What a night begins with and learns. `full`: fresh weights, all days. `warm`: the champion's
    layers with fresh embedding tables, all days, half of the epochs. `incremental`: the weights and
    moments of the night before, moved by key, and only the days since, in one pass."""
    full_every: int = Field(default=7, ge=1)
    """With `mode: incremental`: number of nights from one that learns all days to the next."""
    drift_ne: float = Field(default=0.01, ge=0)
    """With `mode: incremental`: increase of the normalized entropy of a new day, before it is
    learned, over the usual one, beyond four standard errors. Above it the night learns all days."""
    refit: bool | None = None
    """After the gates' evaluation train once more, by the same recipe and for as many epochs, on
    the rows of all days, the newest included, and serve that. It is compared with the judged model
    on the newest rows of a tenth of the users, which neither has learned. Unset: a night refits
    where that is defined, and serves the judged model, with a warning, where the refitted one
    cannot be compared or is outside a stop of `gates.serving`. True: such a refit stops the night.
    """
    memory_gb: float | None = Field(default=None, gt=0)
    """Gigabytes that the training and validation rows may take in memory, per process. More rows
    stream: they are read again for each epoch and shuffled through a buffer. Default: half of the
    machine's memory, or of the container's, divided by the workers on it. A row takes 4 bytes per
    id and number, twice; weights of the model and libraries come on top."""
    workers: int = Field(default=1, ge=1, le=64)
    """Number of processes that share each batch."""
    seed: int = 0
    """Seed of initialization and shuffling, in addition to the pipeline's `seed`."""

    @model_validator(mode="before")
    @classmethod
    def _warm_start_is_a_mode(cls, value: Any) -> Any:
        """Read `warm_start`, the spelling until version 0.1."""
        if not isinstance(value, dict) or "warm_start" not in value:
            return value
        value = dict(value)
        asked = value.pop("warm_start")
        if asked is True and "mode" not in value:
            log.warning("train.warm_start is now `train.mode: warm`; see docs/upgrade.md")
            return {**value, "mode": "warm"}
        if asked not in (True, False):
            raise ValueError(f"train.warm_start is {asked!r}; set train.mode: warm, or remove it")
        return value

    @model_validator(mode="after")
    def _offsets_have_slices(self) -> Train:
        if (self.calibration == "by_slice") != bool(self.calibration_slices):
            raise ValueError(
                f"train.calibration is {self.calibration!r} and train.calibration_slices"
                f" {list(self.calibration_slices)}: `by_slice` needs one feature or more there, and"
                " nothing else reads it"
            )
        return self

    @model_validator(mode="after")
    def _refit_is_from_scratch(self) -> Train:
        if self.refit and self.mode != "full":
            raise ValueError(
                "train.refit trains from scratch on all days, and so does only train.mode: full;"
                f" remove one of refit and mode: {self.mode}"
            )
        if self.refit and self.sampling_correction:
            raise ValueError(
                "train.refit learns the newest days, whose negatives are not sampled, so that"
                " train.sampling_correction could not undo it; set one of them to false"
            )
        return self

    @property
    def refits_by_itself(self) -> bool:
        """Whether an unset `refit` means yes, as far as training goes.

        That is: from scratch, in one process, with a calibration that needs no rows of its own.
        """
        return (
            self.refit is None
            and self.mode == "full"
            and not self.sampling_correction
            and self.calibration in ("none", "rate")
            and self.workers == 1
        )

    @property
    def starts_warm(self) -> bool:
        """Whether a night begins with layers of the champion."""
        return self.mode == "warm"

    def sized(self, rows: int) -> tuple[int, int]:
        """Rows per step and maximum number of epochs, for so many training rows.

        The candidate and the baseline get the same.
        """
        if self.epochs is not None:
            return self.batch_size or LARGEST_BATCH, self.epochs
        size = self.batch_size
        if size is None:
            size = LARGEST_BATCH
            while size > SMALLEST_BATCH and rows * FEWEST_EPOCHS / size < self.least_steps:
                size //= 2
        per_epoch = max(-(-rows // size), 1)
        wanted = -(-self.least_steps // per_epoch)
        return size, min(max(wanted, FEWEST_EPOCHS), MOST_EPOCHS)
