"""Checks of joined clicks and conversions (`kind: events`): matches, duplicates, clocks, delays."""

from __future__ import annotations

import math
from functools import partial

from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.drift import beyond_chance
from nightbid.gates.measurements import Measurements

STREAMS = ("clicks", "conversions")
DELAYS = {"median": "delay_median_hours", "p95": "delay_p95_hours"}
SPREAD = 2.0
"""Relative standard error of a quantile of n delays, times √n: 1.45 for exponential delays, more
for delays with a longer tail."""


def measure(measurements: Measurements, days: DayProfiles, day: DayProfile) -> None:
    """Measure the joined events of one day; nothing if the source joins no events."""
    for stream in STREAMS:
        if stream in day.figures:
            _shares(measurements, days, day, stream)
            _delays(measurements, days, day, stream)


def _shares(measurements: Measurements, days: DayProfiles, day: DayProfile, stream: str) -> None:
    logged = day.figures[stream]
    copies = day.figures.get(f"{stream}_repeated", 0.0)
    early = day.figures.get(f"{stream}_early", 0.0)
    if copies + logged:
        share = copies / (copies + logged)
        usual = days.usual(
            day, lambda other: _part(other, f"{stream}_repeated", stream, copies=True)
        )
        measurements.add(
            "events_repeated",
            _excess(share, usual or 0.0, copies + logged),
            subject=stream,
            part=day.name,
            note=f"{stream}: {copies:,.0f} of {copies + logged:,.0f} repeated",
        )
    if not logged:
        return
    measurements.add(
        "events_early",
        early / max(logged, early),
        subject=stream,
        part=day.name,
        note=f"{stream}: {early:,.0f} earlier than the impression; {logged:,.0f} logged",
    )
    if f"{stream}_before_the_logs" in day.figures:
        return  # the impressions may be of days before the logs start
    orphans = day.figures.get(f"{stream}_orphans", 0.0)
    usual = days.usual(
        day,
        lambda other: (
            None
            if f"{stream}_before_the_logs" in other.figures
            else _part(other, f"{stream}_orphans", stream)
        ),
    )
    lost = _excess(orphans / logged, usual or 0.0, logged)
    measurements.add(
        "events_matched",
        1 - lost / (1 - (usual or 0.0)) if (usual or 0.0) < 1 else 1.0,
        subject=stream,
        part=day.name,
        note=f"{logged - orphans:,.0f} of {logged:,.0f} {stream} found their impression"
        + ("" if usual is None else f", usually {1 - usual:.1%}"),
    )


def _delays(measurements: Measurements, days: DayProfiles, day: DayProfile, stream: str) -> None:
    for name, figure in DELAYS.items():
        hours = day.figures.get(f"{stream}_{figure}")
        usual = days.usual(day, partial(_figure, f"{stream}_{figure}"))
        if hours is None or not usual:
            continue
        error = SPREAD * math.sqrt(2 / max(day.figures.get(f"{stream}_joined", 1.0), 1.0))
        measurements.add(
            "event_delay",
            beyond_chance(hours / usual, 1.0, error),
            subject=f"{stream}_{name}",
            part=day.name,
            note=f"{name} {hours:.2f} hours, usually {usual:.2f}",
        )


def _figure(name: str, day: DayProfile) -> float | None:
    return day.figures.get(name)


def _part(day: DayProfile, name: str, stream: str, *, copies: bool = False) -> float | None:
    whole = day.figures.get(stream, 0.0) + (day.figures.get(name, 0.0) if copies else 0.0)
    return day.figures.get(name, 0.0) / whole if whole else None


def _excess(share: float, usual: float, events: float) -> float:
    """Compute the excess of a share of events over the usual share, beyond chance; at least 0."""
    error = math.sqrt(max(usual * (1 - usual), 1 / events) / events)
    return max(beyond_chance(share - usual, 0.0, error), 0.0)
