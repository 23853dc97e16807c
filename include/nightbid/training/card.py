"""Fields of the model card that training fills in: initial values, and the calibration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nightbid.config.pipeline import Label
from nightbid.models.calibration import Calibration
from nightbid.models.folder import ModelCard
from nightbid.models.registry import Architecture
from nightbid.training.by_slice import fit_offsets
from nightbid.training.calibration import FITTERS
from nightbid.training.data import SplitRows
from nightbid.training.validation import scored
from nightbid.training.values import scale, value_fields

if TYPE_CHECKING:
    from nightbid.training.job import FitJob


def calibrated(
    card: ModelCard, model: Any, rows: SplitRows, validation: SplitRows, job: FitJob
) -> ModelCard:
    """Fit the calibration, and return the card with it.

    Args:
        card: Model card without a calibration, or with one that undoes weights of training rows.
        model: Model to calibrate.
        rows: Rows that the calibration is fitted to.
        validation: Rows that the offsets of slices are fitted to.
        job: Training job.
    """
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


def calibration_metrics(card: ModelCard) -> dict[str, Any]:
    """Return the calibration as a metric of the stage; empty if there is none."""
    calibration = card.calibration
    return (
        {} if calibration == Calibration() else {"calibration": calibration.model_dump(mode="json")}
    )


def start_fields(label: Label, train: SplitRows, architecture: Architecture) -> dict[str, Any]:
    """Return the fields of the model card that describe its outputs and their initial values."""
    if label.kind == "value":
        fields = value_fields(label, train)
        if architecture.engine == "lightgbm":
            # Trees are trained on values divided by their mean.
            fields["calibration"] = Calibration(intercept=fields["prior"])
        return fields
    tasks = _tasks(label, train) if architecture.multi_task else {}
    return {"prior": _logit(train.rate), **tasks}


def _tasks(label: Label, train: SplitRows) -> dict[str, Any]:
    """Return the fields of a multi-task model's card: its tasks and their initial logits."""
    given_rate = train.given_rate
    rates = (given_rate, train.rate / given_rate if given_rate else 0.0)
    return {"tasks": (label.given, label.column), "task_priors": tuple(map(_logit, rates))}


def _logit(rate: float) -> float:
    bounded = min(max(rate, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))
