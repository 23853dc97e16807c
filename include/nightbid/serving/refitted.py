"""Whether a night refits its model on all days, and whether the refitted model serves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nightbid.config.gate_limits import Range
from nightbid.config.gates import Gates
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.config.settings import Settings
from nightbid.counts import counted

CHECKS = ("refit_loss", "refit_calibration", "refit_mean", "refit_agreement")
"""Statistics of `gate_serving` that compare the refitted model with the judged one."""
LEAST = 10
"""Minimum number of held-out users, and of their positives, for a comparison."""
SIGMAS = 4.0
"""Number of standard errors that are attributed to chance."""


@dataclass(frozen=True)
class RefitStatistic:
    """One statistic that compares the refitted model with the judged one."""

    statistic: str
    value: float | None
    """Value; None if the held-out rows are too few or too uniform."""
    note: str
    """Raw figures behind the value, or the reason that there is none."""


def refits(spec: PipelineSpec) -> bool:
    """Return whether a night of this pipeline refits, on this installation.

    If `train.refit` is unset, a night refits if a refit is defined, is compared on rows that no
    part of it was fitted on, and runs where the judged model was trained.
    """
    if spec.train.refit is not None:
        return spec.train.refit
    return (
        spec.train.refits_by_itself
        and spec.label.kind == "binary"
        and spec.model.architecture != "ensemble"
        and not Settings().trains_elsewhere
    )


def is_automatic(spec: PipelineSpec) -> bool:
    """Return whether a bad refit lets the judged model serve instead of stopping the night."""
    return spec.train.refit is None


def fingerprint(spec: PipelineSpec, night: Night, cache: Path) -> str:
    """Return what else determines the exported model: the stops, if they choose between models."""
    if not is_automatic(spec):
        return ""
    if not refits(spec):
        return "judged"
    return json.dumps({name: spec.gates.stops_at("serving", name, night.date) for name in CHECKS})


def why_judged(refit: Mapping[str, Any], gates: Gates, night: date) -> str:
    """Return why the judged model serves instead of the refitted one; empty if the refit may.

    Args:
        refit: Result of `nightbid.training.refit.compare`.
        gates: Gate settings with the stops of `gates.serving`, bands and overrides.
        night: Date of the night; overrides apply until their `until`.
    """
    for figure in figures(refit):
        stop = gates.stops_at("serving", figure.statistic, night)
        if figure.value is not None and stop is not None and _is_outside(figure.value, stop):
            return (
                f"the refitted model's {figure.statistic} is {figure.value:.4g}, expected"
                f" {_range(stop)} ({figure.note})"
            )
    return ""


def figures(refit: Mapping[str, Any]) -> Iterator[RefitStatistic]:
    """Yield statistics of how a refitted model differs from the judged one, beyond chance.

    Args:
        refit: Result of `nightbid.training.refit.compare`.
    """
    judged, refitted, difference = refit["judged"], refit["refitted"], refit["difference"]
    rows = f"{counted(refit['held_rows'], 'held-out row')} with"
    rows += f" {counted(refit['held_positives'], 'positive')}"
    if difference["low"] is None:
        yield RefitStatistic("refit_loss", None, "too few held-out users for its log loss")
    else:
        loss = max(difference["low"], 0.0) / max(judged["log_loss"], 1e-12)
        note = f"{refitted['log_loss']:.5f}, judged {judged['log_loss']:.5f}, on {rows}"
        yield RefitStatistic("refit_loss", loss, note)
    if refitted["calibration"] is None:
        yield RefitStatistic("refit_calibration", None, "no held-out row is positive")
    else:
        chance = SIGMAS / math.sqrt(max(refit["held_positives"], 1))
        value = _beyond(refitted["calibration"], chance)
        note = f"{refitted['calibration']:.4f} measured on {rows}"
        yield RefitStatistic("refit_calibration", value, note)
    note = f"{refit['mean_ratio']:.4f} measured on {rows}"
    yield RefitStatistic("refit_mean", _beyond(refit["mean_ratio"], _rate_error(refit)), note)
    if refit["agreement"] is None:
        yield RefitStatistic("refit_agreement", None, "a model predicts the same for every row")
    else:
        note = (
            f"{refit['agreement']:.4f} measured on {rows} of {counted(refit['held_users'], 'user')}"
        )
        value = _agreement(refit["agreement"], refit["held_users"])
        yield RefitStatistic("refit_agreement", value, note)


def _rate_error(refit: Mapping[str, Any]) -> float:
    """Compute the chance deviation in the ratio of mean predictions: rates vary with positives.

    The refitted model learned all positives of the judged one too, so only the newer ones count.
    """
    before, after = (max(count, 1) for count in refit.get("positives", (1, 1)))
    return SIGMAS * math.sqrt(max(1 / before - 1 / after, 0.0))


def _agreement(correlation: float, users: int) -> float:
    """Return the upper bound of a correlation over so many users (Fisher's z), at most 1."""
    z = math.atanh(min(max(correlation, -0.999999), 0.999999))
    return math.tanh(z + SIGMAS / math.sqrt(max(users - 3, 1)))


def _beyond(ratio: float, chance: float) -> float:
    """Reduce the distance of a ratio from 1 by the chance deviation."""
    away = ratio - 1
    return 1 + math.copysign(max(abs(away) - chance, 0.0), away)


def _is_outside(value: float, bounds: Range) -> bool:
    low, high = bounds
    if math.isnan(value):
        return True
    return (low is not None and value < low) or (high is not None and value > high)


def _range(bounds: Range) -> str:
    low, high = bounds
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}"
