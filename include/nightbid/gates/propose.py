"""Learns the limits of a pipeline from its history, for a user to review."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import yaml

from nightbid.config.gate_limits import Limit, Range
from nightbid.config.gates import Band, Gates
from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.gates.result import known_result
from nightbid.night.record import runs_of
from nightbid.partitions import partition_of
from nightbid.storage.workspace import Workspace

LEARNED = ("raw", "features", "model", "serving")
"""Gates whose limits are learned; users decide on limits of money."""
LEAST_NIGHTS = 3
LEARNT = frozenset(
    {"null_excess", "blank_excess", "new_values", "psi", "linf", "auc_gain", "auc_loss",
     "rows_vs_usual", "hour_low", "hour_high", "clock_shift", "label_rate_vs_usual",
     "label_evening", "distinct_vs_usual", "oov_excess", "psi_excess", "p99_ms", "calibration",
     "lost_values", "attribute_loss", "psi_champion", "vocabulary_churn", "predictions_moved",
     "quarantined", "outside_day", "nan_excess"}
)  # fmt: skip
"""Statistics whose normal values differ between pipelines, so that their limits are learned."""
DAY = re.compile(r"\d{4}-\d\d-\d\d(T\d\d)?")
"""Pattern of the day or hour with which a measurement's part starts, as `2026-01-05, by ad_id`."""
WARN_MARGIN, STOP_MARGIN = 2.0, 4.0
"""Distance of a learned limit from normal, as a multiple of the largest distance seen so far."""
FLOOR = 0.05
"""Minimum width of a learned limit, as a share of the general limit's width."""


@dataclass(frozen=True)
class PastMeasurement:
    """A past measurement of a statistic."""

    day: date
    """Day of logs that was measured, or the night that judged it."""
    value: float
    excluded: str = ""
    """Reason why the value is not learned from; empty: it is."""


@dataclass(frozen=True)
class Proposal:
    """The history of a statistic, and the band that is proposed for it."""

    gate: str
    statistic: str
    general: Limit
    """Limit that currently applies."""
    points: tuple[PastMeasurement, ...]
    """Past measurements, oldest first."""
    band: Band | None
    """Proposed band; None: the history does not justify a narrower limit."""

    @property
    def values(self) -> tuple[float, ...]:
        """Past values that the band was learned from."""
        return tuple(point.value for point in self.points if not point.excluded)


def propose(workspace: Workspace, pipeline: str, gates: Gates, nights: int) -> list[Proposal]:
    """Learn bands from the gates' results on the last nights.

    A learned band is never wider than the general limit; only a user can widen a limit. Values of
    stopped nights and overridden checks are shown but not learned from.

    Args:
        workspace: Workspace with the runs.
        pipeline: Name of the pipeline.
        gates: Limits that currently apply.
        nights: Number of newest nights to learn from.

    Raises:
        MissingDataError: Fewer than three nights have been judged.
    """
    proposals: list[Proposal] = []
    enough = False
    for gate in LEARNED:
        results = _results(workspace, pipeline, gate)[-nights:]
        passed = [result for result in results if result["verdict"] != "stop"]
        if len(passed) < LEAST_NIGHTS:
            continue
        enough = True
        first, last = passed[0]["night"], passed[-1]["night"]
        for statistic, points in sorted(_histories(results).items()):
            general = getattr(getattr(gates, gate), statistic.partition(":")[0])
            values = [point.value for point in points if not point.excluded]
            why = f"{counted(len(values), 'value')} {first} to {last}"
            band = learn(gate, statistic, values, general, why) if values else None
            proposals.append(Proposal(gate, statistic, general, points, band))
    if not enough:
        raise MissingDataError(
            f"fewer than {LEAST_NIGHTS} nights of {pipeline!r} have been judged",
            where=str(workspace.root),
            hint="run more nights first:"
            f" `nightbid run {pipeline} --date … --nights {LEAST_NIGHTS}`",
        )
    return proposals


def _histories(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[PastMeasurement, ...]]:
    """Collect the past values of each statistic, oldest first.

    A day is judged on several nights but counts once, with the value of the newest night that was
    not stopped.
    """
    histories: dict[str, dict[tuple[str, str], PastMeasurement]] = {}
    for result in sorted(
        results, key=lambda result: (result["verdict"] != "stop", result["night"])
    ):
        let_pass = {
            (finding["statistic"], finding["part"]): finding["override"]["name"]
            for finding in result["findings"]
            if finding["override"]
        }
        for statistic, part, value, _ in result["facts"]:
            if statistic.partition(":")[0] not in LEARNT or value is None:
                continue
            if part.endswith("rows"):
                continue  # From a sample; the profile has the value for the whole day.
            of_day = DAY.match(part)
            day = partition_of(of_day[0] if of_day else result["night"])
            why = f"night {result['night']} was stopped" if result["verdict"] == "stop" else ""
            if (statistic, part) in let_pass:
                why = f"let pass by {let_pass[statistic, part]}"
            key = (part, "" if of_day else result["night"])
            histories.setdefault(statistic, {})[key] = PastMeasurement(day, float(value), why)
    return {
        statistic: tuple(sorted(points.values(), key=lambda point: point.day))
        for statistic, points in histories.items()
    }


def learn(
    gate: str, statistic: str, values: Sequence[float], general: Limit, why: str
) -> Band | None:
    """Narrow a general limit to the values seen, with a margin; None if it is not narrower."""
    warn = _narrowed(general.warn or general.stop, values, WARN_MARGIN)
    stop = _narrowed(general.stop, values, STOP_MARGIN)
    if (warn, stop) == (general.warn, general.stop):
        return None
    return Band(gate=gate, statistic=statistic, warn=warn, stop=stop, why=why)


def _narrowed(bounds: Range | None, values: Sequence[float], margin: float) -> Range | None:
    """Move each side toward the values; the center is 1 for ratios and 0 for excesses."""
    if bounds is None:
        return None
    low, high = bounds
    center = 1.0 if low is not None else 0.0
    if high is not None:
        reach = max(max(values) - center, (high - center) * FLOOR, 0.0)
        high = min(high, round(center + margin * reach, 4))
    if low is not None:
        reach = max(center - min(values), (center - low) * FLOOR, 0.0)
        low = max(low, round(center - margin * reach, 4))
    return low, high


def to_yaml(pipeline: str, suite: Mapping[str, Any]) -> str:
    """Write the text of a suite file, with one line per band."""
    head = (
        f"# Gate limits of {pipeline}: read into the `gates` block of its pipeline.\n"
        "# Proposed from history; review each line before you commit it.\n"
    )
    filled = {key: value for key, value in suite.items() if value}
    return head + yaml.safe_dump(filled, sort_keys=False, default_flow_style=None, width=120)


def bands_of(proposals: Sequence[Proposal]) -> list[dict[str, Any]]:
    """Convert proposals to the bands of a suite file, each with the range of values as its reason.

    Columns with the same limit of a statistic share a band, which keeps the file readable.
    """
    alike: dict[tuple[Any, ...], list[Band]] = {}
    for band in (proposal.band for proposal in proposals if proposal.band is not None):
        family, colon, _ = band.statistic.partition(":")
        key = (band.gate, family, colon, band.warn, band.stop, band.why)
        alike.setdefault(key, []).append(band)
    bands = [
        group[0]
        if len(group) == 1
        else group[0].model_copy(
            update={
                "statistic": family,
                "columns": tuple(band.statistic.partition(":")[2] for band in group),
            }
        )
        for (_, family, *_), group in alike.items()
    ]
    return [
        band.model_dump(mode="json", exclude_none=True, exclude_defaults=True) for band in bands
    ]


def _results(workspace: Workspace, pipeline: str, gate: str) -> list[Mapping[str, Any]]:
    """List the results of a gate, the newest one of each night, oldest night first."""
    by_night: dict[str, Mapping[str, Any]] = {}
    for run in runs_of(workspace, pipeline):
        record = run.stage(f"gate_{gate}")
        if record is None or not record.uri:
            continue
        result = known_result(workspace.at(record.uri))
        if result is not None:
            by_night[str(result["night"])] = result
    return [by_night[night] for night in sorted(by_night)]
