"""Models and training: the typed `model`, `baseline` and `train` blocks."""

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
    """L2 penalty of the embeddings: ½·l2·w² per weight is added to the log loss of all training
    rows, which is a normal prior with standard deviation 1/√l2."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the architecture's function."""


class Baseline(Model):
    """The baseline: a model that is trained each night, or a score from the logs.

    With `column`, the score of another platform's model is the baseline and, until a model is
    promoted, the reference to beat: on the same rows, with the same intervals and money. It is
    never served or promoted.
    """

    column: str | None = None
    """Column of the logs with another platform's predicted probability, 0 to 1. Cannot be combined
    with the keys of a model."""
    unscored: float = Field(default=0.01, ge=0, lt=1)
    """With `column`: largest share of evaluate rows without a score. They are left out and counted;
    a larger share fails the evaluation."""

    @model_validator(mode="before")
    @classmethod
    def _a_model_will_do(cls, value: Any) -> Any:
        return value.model_dump() if isinstance(value, Model) else value

    @model_validator(mode="after")
    def _a_column_is_no_model(self) -> Baseline:
        if self.column is None:
            return self
        # The record of a run states all keys with their values: defaults contradict nothing.
        default = Model()
        if extra := sorted(
            key for key in Model.model_fields if getattr(self, key) != getattr(default, key)
        ):
            raise ValueError(
                f"baseline.column is a score in the logs, so there is nothing to train; remove"
                f" baseline.{extra[0]}"
            )
        return self

    @property
    def name(self) -> str:
        """Name of the baseline in lists of models."""
        return self.column or self.architecture


LARGEST_BATCH, SMALLEST_BATCH = 2048, 128
FEWEST_EPOCHS, MOST_EPOCHS = 3, 20


class Train(Block):
    """How a model is trained."""

    batch_size: int | None = Field(default=None, ge=1)
    """Number of rows per step. Default: 2048; smaller if `epochs` is not set either and there are
    too few rows for `least_steps`."""
    epochs: int | None = Field(default=None, ge=1)
    """Maximum number of passes over the training rows. Default: 3, or as many as `least_steps`
    needs, at most 20."""
    least_steps: int = Field(default=500, ge=0)
    """Without `epochs`: minimum number of steps to plan. On few rows, batches become smaller, down
    to 128 rows, and the number of epochs rises; `patience` can still end training early."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """How the learning rate changes after warmup: `constant` keeps its peak; `cosine` and `linear`
    fall to 0 at the end of the last epoch."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0 to its peak."""
    reset_tables: Literal["none", "each_epoch"] = "none"
    """When to reinitialize the embedding tables. `each_epoch`: every epoch starts with fresh
    embeddings, while the other layers keep their weights (MEDA), so that many epochs do not overfit
    the ids."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, for example 0.99. The average
    is validated and served. 0: the weights of the last step are."""
    patience: int = Field(default=1, ge=0)
    """Number of epochs without a better validation log loss after which training ends."""
    calibration: Literal["none", "rate", "platt", "isotonic", "by_slice"] = "none"
    """Calibration after training. `rate` shifts all logits so that the mean prediction on the
    training rows, with inputs as at serving, equals their label rate. `platt` fits a line and
    `isotonic` a non-decreasing curve over the logits, on the validation rows. `by_slice` is `rate`
    plus a shrunken offset for each value of the `calibration_slices`, fitted on the validation
    rows."""
    calibration_slices: tuple[str, ...] = ()
    """With `calibration: by_slice`: features with one id per row (`vocabulary`, `hour`, `buckets`
    and so on) whose values get an offset."""
    sampling_correction: bool = False
    """True: train on sampled negatives without weights and correct the probability afterwards:
    q = p / (p + (1 - p)/w), where w is the share of negatives kept. False: train with weights."""
    positive_weight: float = Field(default=1.0, gt=0)
    """Weight of a positive in training; the predicted probability is corrected for it."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Seconds between checkpoints: the maximum amount of work that a killed training repeats."""
    mode: Literal["full", "warm", "incremental"] = "full"
    """Which weights a night starts from and which days it learns. `full`: fresh weights, all days.
    `warm`: the champion's layers with fresh embedding tables, all days, half of the epochs.
    `incremental`: the previous night's weights and optimizer moments, mapped by key, and only the
    days since then, in one pass."""
    full_every: int = Field(default=7, ge=1)
    """With `mode: incremental`: a full training on all days takes place every this many nights."""
    drift_ne: float = Field(default=0.01, ge=0)
    """With `mode: incremental`: tolerated increase in the normalized entropy of a new day, before
    the model learns it, over the usual one, beyond four standard errors. Above it the night trains
    on all days."""
    refit: bool | None = None
    """Whether to train again after the evaluation, with the same settings and number of epochs, on
    the rows of all days, including the newest, and to serve that model. It is compared with the
    judged model on the newest rows of a tenth of the users, which neither model has learned. Null:
    the night refits where that is defined; if the refitted model cannot be compared or is outside a
    stop limit of `gates.serving`, the judged model serves, with a warning. True: such a refit stops
    the night. False: the judged model serves."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Gigabytes of memory per process for the training and validation rows. If the rows do not fit,
    they are streamed: read again for each epoch and shuffled through a buffer. Default: half of the
    memory of the machine or container, divided by the number of workers on it. A row takes 4 bytes
    per id and number, twice; the weights of the model and the libraries need additional memory."""
    workers: int = Field(default=1, ge=1, le=64)
    """Number of processes that share each batch."""
    seed: int = 0
    """Seed of initialization and shuffling, in addition to the pipeline's `seed`."""

    @model_validator(mode="before")
    @classmethod
    def _warm_start_is_a_mode(cls, value: Any) -> Any:
        """Read `warm_start`, the spelling of `mode: warm` until version 0.1."""
        if not isinstance(value, dict) or "warm_start" not in value:
            return value
        value = dict(value)
        warm_start = value.pop("warm_start")
        if warm_start is True and "mode" not in value:
            log.warning("train.warm_start is now `train.mode: warm`; see docs/upgrade.md")
            return {**value, "mode": "warm"}
        if warm_start not in (True, False):
            raise ValueError(
                f"train.warm_start is {warm_start!r}; set train.mode: warm, or remove it"
            )
        return value

    @model_validator(mode="after")
    def _offsets_have_slices(self) -> Train:
        if (self.calibration == "by_slice") != bool(self.calibration_slices):
            raise ValueError(
                f"train.calibration is {self.calibration!r} and train.calibration_slices"
                f" {list(self.calibration_slices)}: `by_slice` needs at least one feature there, "
                "and other values need none"
            )
        return self

    @model_validator(mode="after")
    def _refit_is_from_scratch(self) -> Train:
        if self.refit and self.mode != "full":
            raise ValueError(
                "train.refit trains from scratch on all days, which only train.mode: full does; "
                f"remove refit, or mode: {self.mode}"
            )
        if self.refit and self.sampling_correction:
            raise ValueError(
                "train.refit learns the newest days, whose negatives are not sampled, so "
                "train.sampling_correction cannot correct them; set one of the two to false"
            )
        return self

    @property
    def refits_by_itself(self) -> bool:
        """Whether a night refits if `refit` is not set, judging by the `train` block alone.

        It does if training is from scratch, in one process and with a calibration that needs no
        rows of its own.
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
        """Whether a night starts from layers of the champion."""
        return self.mode == "warm"

    def sized(self, rows: int) -> tuple[int, int]:
        """Get the rows per step and the maximum number of epochs for a number of training rows.

        Candidate and baseline use the same values.
        """
        if self.epochs is not None:
            return self.batch_size or LARGEST_BATCH, self.epochs
        size = self.batch_size
        if size is None:
            size = LARGEST_BATCH
            while size > SMALLEST_BATCH and rows * FEWEST_EPOCHS / size < self.least_steps:
                size //= 2
        per_epoch = max(-(-rows // size), 1)
        epochs = -(-self.least_steps // per_epoch)
        return size, min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS)
