"""Learn a pipeline's own limits from its history, for a person to review."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import yaml

from nightbid.config.gates import Band, GateName, Gates, Limit, Range
from nightbid.errors import MissingDataError
from nightbid.runs import runs_of
from nightbid.workspace import Workspace

GATES: tuple[GateName, ...] = ("raw", "features", "model", "serving")
LEAST_NIGHTS = 3
LEARNT = frozenset(
    {"null_excess", "blank_excess", "new_values", "psi", "linf", "auc_gain", "auc_loss",
     "rows_vs_usual", "hour_low", "hour_high", "clock_shift", "label_rate_vs_usual",
     "label_evening", "distinct_vs_usual", "oov_excess", "psi_excess", "p99_ms", "calibration"}
)  # fmt: skip
"""Statistics that differ from pipeline to pipeline; the others are rules, not habits."""
WARN_MARGIN, STOP_MARGIN = 2.0, 4.0
"""A learned limit lies this many times as far from normal as anything seen so far."""
FLOOR = 0.05
"""Share of a general limit's width that a learned one keeps at least."""


@dataclass(frozen=True)
class Proposal:
    """One learned band and the values that it comes from, oldest first."""

    band: Band
    values: tuple[float, ...]


def propose(workspace: Workspace, pipeline: str, gates: Gates, nights: int) -> list[Proposal]:
    """Learn bands from the gates' results on the last nights.

    A learned band is never wider than the general limit: loosening one is a decision, not a habit.

    Args:
        workspace: where the runs are.
        pipeline: whose.
        gates: the limits now in force.
        nights: how many of the newest nights to learn from.

    Raises:
        MissingDataError: fewer than three nights have been judged.
    """
    proposals: list[Proposal] = []
    enough = False
    for gate in GATES:
        results = _results(workspace, pipeline, gate)[-nights:]
        if len(results) < LEAST_NIGHTS:
            continue
        enough = True
        seen: dict[str, list[float]] = {}
        # A day is judged on several nights: once each, as the newest night saw it.
        newest: dict[str, dict[tuple[str, str], float]] = {}
        for result in results:
            for statistic, part, value, _ in result["facts"]:
                if statistic.partition(":")[0] in LEARNT and value is not None:
                    key = (part, "" if part[:2] == "20" else result["night"])
                    newest.setdefault(statistic, {})[key] = float(value)
        for statistic, by_part in newest.items():
            seen[statistic] = [by_part[key] for key in sorted(by_part)]
        first, last = results[0]["night"], results[-1]["night"]
        for statistic, values in sorted(seen.items()):
            general = getattr(getattr(gates, gate), statistic.partition(":")[0])
            band = learn(
                gate, statistic, values, general, f"{len(values)} values {first} to {last}"
            )
            if band is not None:
                proposals.append(Proposal(band, tuple(values)))
    if not enough:
        raise MissingDataError(
            f"fewer than {LEAST_NIGHTS} nights of {pipeline!r} have been judged",
            where=str(workspace.root),
            hint=f"run more nights first: `nightbid run {pipeline} --nights {LEAST_NIGHTS} …`",
        )
    return proposals


def learn(
    gate: GateName, statistic: str, values: Sequence[float], general: Limit, why: str
) -> Band | None:
    """Narrow a general limit to what has been seen, with a margin; None if that gains nothing."""
    warn = _narrowed(general.warn or general.stop, values, WARN_MARGIN)
    stop = _narrowed(general.stop, values, STOP_MARGIN)
    if (warn, stop) == (general.warn, general.stop):
        return None
    return Band(gate=gate, statistic=statistic, warn=warn, stop=stop, why=why)


def _narrowed(bounds: Range | None, values: Sequence[float], margin: float) -> Range | None:
    """Move each side towards the values; the centre is 1 for ratios and 0 for excesses."""
    if bounds is None:
        return None
    low, high = bounds
    centre = 1.0 if low is not None else 0.0
    if high is not None:
        reach = max(max(values) - centre, (high - centre) * FLOOR, 0.0)
        high = min(high, round(centre + margin * reach, 4))
    if low is not None:
        reach = max(centre - min(values), (centre - low) * FLOOR, 0.0)
        low = max(low, round(centre - margin * reach, 4))
    return low, high


def to_yaml(pipeline: str, proposals: Sequence[Proposal], overrides: Sequence[Any] = ()) -> str:
    """Write bands as a suite file: one line each, the values' range as its reason."""
    suite: dict[str, Any] = {
        "bands": [each.band.model_dump(mode="json", exclude_none=True) for each in proposals],
        "overrides": [each.model_dump(mode="json") for each in overrides],
    }
    head = (
        f"# Gate limits of {pipeline}: read as gates.bands and gates.overrides of its pipeline.\n"
        "# Proposed from history; review each line before you commit it.\n"
    )
    return head + yaml.safe_dump(suite, sort_keys=False, default_flow_style=None, width=120)


def _results(workspace: Workspace, pipeline: str, gate: str) -> list[Mapping[str, Any]]:
    """Results of a gate that let the night pass, one per night, oldest first."""
    by_night: dict[str, Mapping[str, Any]] = {}
    for run in runs_of(workspace, pipeline):
        record = run.stage(f"gate_{gate}")
        # A night that was stopped must not teach what is normal.
        if record is None or record.state != "done" or not record.uri:
            continue
        path = workspace.at(record.uri) / "gate.json"
        if path.exists():
            result = cast(Mapping[str, Any], json.loads(path.read_text()))
            by_night[str(result["night"])] = result
    return [by_night[night] for night in sorted(by_night)]
