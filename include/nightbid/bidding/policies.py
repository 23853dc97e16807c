"""Estimates the value of a policy from logs of another policy with known propensities.

With w = π_e(a | x) / π_b(a | x) of the logged action, r its reward, q̂ the predicted reward of the
logged action and q̄ = Σ over a of π_e(a | x) · q̂(x, a):

    DM         mean(q̄)                                    model only
    IPS        mean(w · r)                                Horvitz and Thompson 1952
    SNIPS      Σ w · r / Σ w                              Swaminathan and Joachims 2015
    DR         mean(q̄ + w · (r − q̂))                      Dudík et al. 2011
    SNDR       mean(q̄) + Σ w · (r − q̂) / Σ w
    switch-DR  mean(q̄ + w · 1[w ≤ τ] · (r − q̂))           Wang et al. 2017
    DRos       mean(q̄ + λw / (w² + λ) · (r − q̂))          Su et al. 2020

Rows are single (context, position) pairs. For slates, pass one row per position, which gives the
independent estimator.

Intervals use the central limit theorem, with users as clusters if given. They hold for the logged
actions and do not cover the bias of DM, switch-DR and DRos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nightbid.bidding.checks import Floats, probabilities
from nightbid.counts import are, counted
from nightbid.errors import DataError

Z95 = 1.959963984540054
ESTIMATORS = ("dm", "ips", "snips", "dr", "sndr", "switch_dr", "dr_os")
LEAST_ESS = 50.0
LEAST_OVERLAP = 0.5
"""Minimum mean of w, which is 1 if the logging policy covers all actions of the other one."""
MOST_WEIGHT = 1.2
"""Mean of w from which a mean above 1 beyond chance is an error: it cannot be expected."""


@dataclass(frozen=True)
class Estimate:
    """Mean reward of a policy, with a 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(
        cls, value: float, influence: Floats, groups: npt.NDArray[np.integer] | None
    ) -> Estimate:
        """Compute the interval of an estimate.

        Args:
            value: The estimate.
            influence: [rows], contribution of each row, with mean 0.
            groups: [rows], cluster index 0, 1, …; None: rows are independent.
        """
        n = len(influence)
        if groups is None:
            variance, units = float((influence**2).sum()), n
        else:
            sums = np.bincount(groups, influence)
            variance, units = float((sums**2).sum()), len(sums)
        # The usual correction for a small number of clusters.
        error = float(np.sqrt(variance * units / max(units - 1, 1)) / n)
        return cls(value, value - Z95 * error, value + Z95 * error)


@dataclass(frozen=True)
class PolicyValue:
    """All estimates of one policy's mean reward."""

    estimates: dict[str, Estimate]
    effective_sample_size: float
    """(Σ w)² / Σ w²: number of rows from the policy itself with the same information."""
    mean_weight: float
    """Mean of w; its expectation is 1 if propensities are right and the policies overlap."""
    largest_weight: float
    rows: int
    logged: Estimate
    """Mean reward of the logging policy."""
    influence: Mapping[str, Floats] = field(repr=False, compare=False, default_factory=dict)
    """Estimator (or `logged`) → [rows], contribution of each row, with mean 0."""
    groups: npt.NDArray[np.integer] | None = field(repr=False, compare=False, default=None)

    def gain(self, name: str) -> Estimate:
        """Difference between an estimate and the logging policy's mean reward, paired by row."""
        value = self.estimates[name].value - self.logged.value
        return Estimate.of(value, self.influence[name] - self.influence["logged"], self.groups)


def difference(one: PolicyValue, other: PolicyValue, name: str) -> Estimate:
    """Difference between two policies' values on the same rows, paired by row."""
    value = one.estimates[name].value - other.estimates[name].value
    return Estimate.of(value, one.influence[name] - other.influence[name], one.groups)


def evaluate(
    reward: npt.ArrayLike,
    logged: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    predicted: npt.ArrayLike | None = None,
    predicted_policy: npt.ArrayLike | None = None,
    users: npt.NDArray[np.integer] | None = None,
    switch: float = 10.0,
    shrinkage: float = 100.0,
    least_ess: float = LEAST_ESS,
) -> PolicyValue:
    """Estimate the mean reward that the candidate policy would have had.

    Args:
        reward: [rows], reward of the logged action.
        logged: [rows], propensity of the logged action under the logging policy.
        candidate: [rows], probability of the logged action under the candidate policy.
        predicted: [rows], predicted reward of the logged action; None: only IPS and SNIPS.
        predicted_policy: [rows], predicted reward under the candidate policy, Σ π_e(a) · q̂(a).
        users: [rows], clusters of the intervals; None: rows are independent.
        switch: τ of switch-DR.
        shrinkage: λ of DRos.
        least_ess: Minimum effective sample size.

    Raises:
        DataError: A propensity is 0 or outside 0..1, the policies overlap too little for an
            estimate, the mean weight is above 1 beyond chance, or a setting is not above 0.
    """
    behavior = probabilities("the logged propensity", logged)
    chosen = probabilities("the candidate's probability", candidate)
    for name, value in (("switch", switch), ("shrinkage", shrinkage)):
        if not (np.isfinite(value) and value > 0):
            raise DataError(f"{name} is {value:g}", hint=f"{name} must be above 0")
    r = np.asarray(reward, np.float64)
    _check(r, behavior, chosen, predicted, predicted_policy, users)
    w = chosen / behavior
    square = float((w**2).sum())
    ess = float(w.sum() ** 2 / square) if square else 0.0
    mean = float(w.mean())
    if ess < least_ess or mean < LEAST_OVERLAP:
        raise DataError(
            f"the policies overlap too little: {counted(len(r), 'logged row')} {are(len(r))} worth"
            f" {ess:.1f} of the candidate's own, and the mean weight is {mean:.3g} (1 is full"
            " overlap)",
            hint=f"log more rows or explore more: {least_ess:g} and {LEAST_OVERLAP:g} are needed",
        )
    if mean > MOST_WEIGHT and mean - 1 > 4 * float(w.std()) / np.sqrt(len(w)):
        raise DataError(
            f"the mean of the candidate's probability over the logged propensity is {mean:.3g},"
            " beyond chance above 1",
            hint="a propensity is the probability with which the logged item was shown, not a"
            " percentage or a score: correct the columns",
        )
    n = len(r)
    groups = None if users is None else np.unique(users, return_inverse=True)[1]

    def of(values: Floats) -> tuple[float, Floats]:
        return float(values.mean()), values - values.mean()

    def ratio(values: Floats, offset: Floats | float = 0.0) -> tuple[float, Floats]:
        """Return mean(offset) + Σ w·values / Σ w, and each row's contribution."""
        share = float((w * values).sum() / w.sum())
        influence = (values - share) * w / mean + (offset - np.mean(offset))
        return share + float(np.mean(offset)), influence

    estimated = {"logged": of(r), "ips": of(w * r), "snips": ratio(r)}
    if predicted is not None and predicted_policy is not None:
        rest = r - np.asarray(predicted, np.float64)
        model = np.asarray(predicted_policy, np.float64)
        estimated |= {
            "dm": of(model),
            "dr": of(model + w * rest),
            "sndr": ratio(rest, model),
            "switch_dr": of(model + np.where(w <= switch, w, 0.0) * rest),
            "dr_os": of(model + shrinkage * w / (w**2 + shrinkage) * rest),
        }
    estimates = {name: Estimate.of(*pair, groups) for name, pair in estimated.items()}
    return PolicyValue(
        {name: estimates[name] for name in ESTIMATORS if name in estimates},
        ess, mean, float(w.max()), n, estimates["logged"],
        {name: influence for name, (_, influence) in estimated.items()}, groups,
    )  # fmt: skip


def _check(
    reward: Floats,
    behavior: Floats,
    chosen: Floats,
    predicted: npt.ArrayLike | None,
    predicted_policy: npt.ArrayLike | None,
    users: npt.NDArray[np.integer] | None,
) -> None:
    if (predicted is None) != (predicted_policy is None):
        raise DataError(
            "only one of the two predictions is given",
            hint="pass both the predicted reward of the logged action and that under the policy",
        )
    columns = {
        "reward": reward, "propensity": behavior, "candidate": chosen, "predicted": predicted,
        "predicted_policy": predicted_policy, "users": users,
    }  # fmt: skip
    rows = {name: len(np.asarray(column)) for name, column in columns.items() if column is not None}
    if len(set(rows.values())) > 1:
        raise DataError(f"columns differ in length: {rows}")
    if not len(reward):
        raise DataError("there are no logged rows", hint="choose a day that has impressions")
    for name in ("reward", "predicted", "predicted_policy"):
        column = columns[name]
        if column is not None and not np.isfinite(np.asarray(column, np.float64)).all():
            count = int((~np.isfinite(np.asarray(column, np.float64))).sum())
            raise DataError(
                f"{count:,} of {counted(len(reward), 'value')} of {name} {are(count)} not finite"
            )
    zero = behavior == 0
    if zero.any():
        bad, of = int(zero.sum()), counted(len(zero), "logged propensity", "logged propensities")
        raise DataError(
            f"{bad:,} of {of} {are(bad)} 0, the first in row {int(zero.argmax())}",
            hint="every logged action has a propensity above 0: correct the propensity column",
        )


def softmax(scores: Floats, temperature: float = 1.0) -> Floats:
    """[rows, actions], probabilities proportional to exp(score / temperature)."""
    scaled = scores / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    total: Floats = scaled / scaled.sum(axis=-1, keepdims=True)
    return total
