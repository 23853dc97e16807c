"""One shrunken offset per value of a column: `train.calibration: by_slice`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from nightbid.errors import ConfigError
from nightbid.models.calibration import Calibration, Offsets
from nightbid.models.layout import Layout
from nightbid.training.calibration import logits_of, shift_to_rate
from nightbid.training.data import Examples, SplitRows, every_so_many
from nightbid.training.validation import Score

Floats = npt.NDArray[np.float64]
Int32s = npt.NDArray[np.int32]
MOST_IDS = 10_000
"""Maximum number of ids of a column: the offsets of all ids are stored in the model."""
MOST_ROWS = 1_000_000
"""Maximum number of validation rows that are used if rows stream."""
STEPS, LARGEST_STEP, CLOSE = 50, 1.0, 1e-7


def fit_offsets(
    score: Score,
    calibration: Calibration,
    validation: SplitRows,
    layout: Layout,
    slices: Mapping[str, int],
) -> tuple[Offsets, ...]:
    """Fit the offsets of each column, one column after the other.

    Args:
        score: Function from model inputs to probabilities, without `calibration`.
        calibration: Calibration that is applied to the logits before the offsets.
        validation: Rows that the model was not trained on, as served.
        layout: The model's inputs.
        slices: Input → number of its out-of-vocabulary ids, which follow id 0. These ids stand for
            unknown values and get no offset.
    """
    rows = validation
    if not isinstance(rows, Examples):
        rows = every_so_many(rows, MOST_ROWS)
    if not slices or rows.labels.min() == rows.labels.max():
        return ()
    z = calibration.logits(logits_of(score(rows.inputs)))
    labels, weights = rows.labels.astype(np.float64), rows.weights.astype(np.float64)
    slice_offsets = []
    for name, unknown in slices.items():
        codes = rows.inputs.ids[:, layout.places[name].start]
        size = next(lookup.size for lookup in layout.lookups if lookup.name == name)
        known = np.ones(size, np.bool_)
        known[1 : 1 + unknown] = False
        offsets = shrunken(z, labels, weights, codes, known)
        z = z + offsets[codes]
        slice_offsets.append(Offsets(input=name, values=tuple(offsets.tolist())))
    return tuple(slice_offsets)


def shrunken(
    z: Floats, labels: Floats, weights: Floats, codes: Int32s, known: npt.NDArray[np.bool_]
) -> Floats:
    """Estimate a random intercept per value, given the logits.

    Offsets are draws from a normal distribution around 0. Each step of iterated weighted least
    squares has a response y per value with information w (penalized quasi-likelihood; Breslow and
    Clayton, 1993); the variance of the offsets is the moment estimate of DerSimonian and Laird
    (1986), τ² = max(0, (Σ w·y² - (k - 1)) / (Σ w - Σ w² / Σ w)) over k values, and an offset is
    y · w·τ² / (w·τ² + 1). So values that do not differ beyond chance get 0.

    The mean residual over all rows is removed first and not restored: it is the difference
    between days, not a property of a value.

    Args:
        z: [rows] logits.
        labels: [rows] 0 or 1.
        weights: [rows] above 0.
        codes: [rows] id of the row's value.
        known: [ids] whether the id stands for one known value.

    Returns:
        [ids] offsets of the logit; 0 for unknown ids and where the data give no evidence.
    """
    size = len(known)
    # Rescale the weights so that they add up to the effective sample size (Kish, 1965).
    weights = weights * (weights.sum() / float(weights @ weights))
    z = z + shift_to_rate(z, labels, weights)
    offsets = np.zeros(size)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-z - offsets[codes]))
        missing = np.bincount(codes, weights * (labels - p), size)
        information = np.where(known, np.bincount(codes, weights * p * (1 - p), size), 0.0)
        some = information > 0
        total = float(information.sum())
        free = total - float(information @ information) / total if some.sum() > 1 else 0.0
        if free <= 0:
            return np.zeros(size)
        response = np.zeros(size)
        response[some] = offsets[some] + missing[some] / information[some]
        excess = float(information @ response**2) - (float(some.sum()) - 1)
        evidence = information * max(excess / free, 0.0)
        step = response * evidence / (evidence + 1) - offsets
        step = np.clip(step, -LARGEST_STEP, LARGEST_STEP)
        offsets = offsets + step
        if np.abs(step).max() < CLOSE:
            break
    return offsets


def check_slices(layout: Layout, slices: Iterable[str]) -> None:
    """Raise if the exported graph could not look up the offsets of an input.

    Raises:
        ConfigError: An input has no single id per row, is not served, or has too many ids.
    """
    served = {field.name: field for field in layout.served}
    for name in slices:
        field = served.get(name)
        if field is None or field.kind != "id":
            raise ConfigError(
                f"feature {name!r} does not give one id per row that is known at serving",
                where="train.calibration_slices",
                hint="name features such as `vocabulary`, `hour` or `buckets`, without"
                " training_only",
            )
        if field.size > MOST_IDS:
            raise ConfigError(
                f"feature {name!r} has {field.size:,} ids, and by_slice takes at most {MOST_IDS:,}",
                where="train.calibration_slices",
                hint="name a feature with fewer values, or lower its top_k",
            )
