"""Whether a night trains once more on all days, and whether it serves the result."""

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

CHECKS = ("refit_loss", "refit_calibration", "refit_mean", "refit_agreement")
"""Statistics of `gate_serving` that compare the refitted model with the judged one."""
LEAST = 10
"""Held-back users, and positives of theirs, below which the two models cannot be compared."""
SIGMAS = 4.0
"""Standard errors that are put down to chance."""


@dataclass(frozen=True)
class Figure:
    """One comparison of the refitted model with the judged one."""

    statistic: str
    value: float | None
    """None where the held-back rows cannot tell."""
    note: str
    """The raw figures behind it, or why there are none."""


def refits(spec: PipelineSpec) -> bool:
    """Whether a night of this pipeline trains once more, on this installation.

    Unset, `train.refit` means yes where a refit is defined, is compared on rows that nothing of it
    was fitted on, and runs where the judged model was trained.
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
    """Whether a refit that is no good leaves the judged model to serve, instead of stopping."""
    return spec.train.refit is None


def fingerprint(spec: PipelineSpec, night: Night, cache: Path) -> str:
    """What else decides which model an export ships: the stops, where they choose."""
    if not is_automatic(spec):
        return ""
    if not refits(spec):
        return "judged"
    return json.dumps({name: spec.gates.stops_at("serving", name, night.date) for name in CHECKS})


def why_judged(found: Mapping[str, Any], gates: Gates, night: date) -> str:
    """Say why the judged model serves and not the refitted one; empty if the refitted one may.

    Args:
        found: What `nightbid.training.refit.compare` gives.
        gates: With the stops of `gates.serving`, bands and overrides.
        night: Overrides hold up to their `until`.
    """
    for each in figures(found):
        stop = gates.stops_at("serving", each.statistic, night)
        if each.value is not None and stop is not None and _is_outside(each.value, stop):
            return (
                f"the refitted model's {each.statistic} is {each.value:.4g}, expected"
                f" {_range(stop)} ({each.note})"
            )
    return ""


def figures(found: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield how a refitted model differs from the judged one, beyond chance.

    Args:
        found: What `nightbid.training.refit.compare` gives.
    """
    judged, refitted, difference = found["judged"], found["refitted"], found["difference"]
    rows = f"{found['held_rows']:,} held-back rows with {found['held_positives']:,} positives"
    if difference["low"] is None:
        yield Figure("refit_loss", None, "too few held-back users for its log loss")
    else:
        loss = max(difference["low"], 0.0) / max(judged["log_loss"], 1e-12)
        note = f"{refitted['log_loss']:.5f}, judged {judged['log_loss']:.5f}, on {rows}"
        yield Figure("refit_loss", loss, note)
    if refitted["calibration"] is None:
        yield Figure("refit_calibration", None, "no held-back row is positive")
    else:
        chance = SIGMAS / math.sqrt(max(found["held_positives"], 1))
        value = _beyond(refitted["calibration"], chance)
        note = f"{refitted['calibration']:.4f} measured on {rows}"
        yield Figure("refit_calibration", value, note)
    note = f"{found['mean_ratio']:.4f} measured on {rows}"
    yield Figure("refit_mean", _beyond(found["mean_ratio"], _rate_error(found)), note)
    if found["agreement"] is None:
        yield Figure("refit_agreement", None, "a model says the same of every row")
    else:
        note = f"{found['agreement']:.4f} measured on {rows} of {found['held_users']:,} users"
        value = _agreement(found["agreement"], found["held_users"])
        yield Figure("refit_agreement", value, note)


def _rate_error(found: Mapping[str, Any]) -> float:
    """Chance in the ratio of two mean predictions: each model learned a rate, of its positives.

    The refitted model learned those of the judged one, too: only the newer ones move its rate.
    """
    before, after = (max(each, 1) for each in found.get("positives", (1, 1)))
    return SIGMAS * math.sqrt(max(1 / before - 1 / after, 0.0))


def _agreement(correlation: float, users: int) -> float:
    """Add chance to a correlation over so many users (Fisher's z), up to 1."""
    z = math.atanh(min(max(correlation, -0.999999), 0.999999))
    return math.tanh(z + SIGMAS / math.sqrt(max(users - 3, 1)))


def _beyond(ratio: float, chance: float) -> float:
    """Take chance off the distance of a ratio from 1."""
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
