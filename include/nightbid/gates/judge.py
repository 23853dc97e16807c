"""Turns measurements into a verdict: limits become rules, by which Great Expectations judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import date

from nightbid.config.base import Block
from nightbid.config.gate_limits import Limit, Range
from nightbid.config.gates import Gates, Override
from nightbid.counts import counted
from nightbid.gates.expectations import RangeRule, SuiteValidation, validate
from nightbid.gates.measurements import Measurement, Measurements
from nightbid.gates.warning_age import of_tonight
from nightbid.night.manifest import Verdict

WEIGHT: Mapping[Verdict, int] = {"pass": 0, "warn": 1, "stop": 2}


NAMED = 12
"""Maximum number of further checks that a summary names; the gate's page lists all."""


@dataclass(frozen=True)
class Finding:
    """A measurement outside its limit."""

    measurement: Measurement
    verdict: Verdict
    expected: str
    override: Override | None = None


@dataclass(frozen=True)
class Check:
    """Verdict on a statistic over all days."""

    name: str
    verdict: Verdict
    observed: str
    expected: str
    detail: str
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, str]:
        """Get the check as manifests, reports and pages read it."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "observed": self.observed,
            "expected": self.expected,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Judgment:
    """The verdict of one gate."""

    gate: str
    verdict: Verdict
    summary: str
    checks: tuple[Check, ...]
    validation: SuiteValidation = field(default_factory=SuiteValidation)
    """Result of Great Expectations."""


def judge(
    gate: str,
    measurements: Measurements,
    gates: Gates,
    night: date,
    warned: Callable[[Set[str]], Mapping[str, int]] = lambda _: {},
) -> Judgment:
    """Judge measurements by the limits of the configuration.

    Args:
        gate: Name of the gate whose limits and bands apply.
        measurements: Measurements to judge; the family of each must be a limit of that gate.
        gates: Limits, learned bands and overrides.
        night: Date of the night, which decides the overrides that apply, so that a rerun agrees.
        warned: Function that maps statistics to the number of consecutive nights, before this one,
            on which each has warned.
    """
    block: Block = getattr(gates, gate)
    bands = gates.bands_of(gate)
    unmeasured = [measurement for measurement in measurements if math.isnan(measurement.value)]
    measured = [measurement for measurement in measurements if not math.isnan(measurement.value)]
    column_of = {
        measurement.statistic: measurement.statistic
        if measurement.statistic in bands
        else measurement.family
        for measurement in measurements
    }
    limits: dict[str, Limit] = {
        column: bands[column] if column in bands else getattr(block, column)
        for column in dict.fromkeys(column_of.values())
    }
    rules: list[RangeRule] = []
    for column, limit in limits.items():
        if limit.stop is not None:
            rules.append(RangeRule(column, limit.stop, "stop"))
        if limit.warn is not None:
            rules.append(RangeRule(column, limit.warn, "warn"))
    validation = validate(measured, column_of, rules)
    worst: dict[tuple[str, str], Finding] = {}
    for rule, statistic, part in validation.failed:
        key = (statistic, part)
        known = worst.get(key)
        if known and WEIGHT[known.verdict] >= WEIGHT[rule.verdict]:
            continue
        measurement = next(
            measurement
            for measurement in measured
            if (measurement.statistic, measurement.part) == key
        )
        worst[key] = Finding(measurement, rule.verdict, in_words(rule.range))
    for measurement in unmeasured:
        worst[(measurement.statistic, measurement.part)] = Finding(
            measurement, "stop", "a measured value"
        )
    live = gates.live_overrides(gate, night)
    findings = [_overridden(finding, live) for finding in worst.values()]
    findings = _expired(findings, gates.warnings_expire_after, night, warned)
    checks = tuple(
        check
        for family in dict.fromkeys(measurement.family for measurement in measurements)
        for check in _checks(
            family,
            [measurement for measurement in measurements if measurement.family == family],
            findings,
            limits,
        )
    )
    verdict = _worst(check.verdict for check in checks)
    return Judgment(
        gate, verdict, _summary(verdict, checks, len(measurements.all)), checks, validation
    )


def in_words(bounds: Range) -> str:
    """Format a range: `[0.5, null]` becomes `≥ 0.5`."""
    low, high = bounds
    if low is not None and high is not None:
        return f"= {low:g}" if low == high else f"{low:g} to {high:g}"
    if low is not None:
        return f"≥ {low:g}"
    return f"≤ {high:g}" if high is not None else "any"


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=WEIGHT.__getitem__, default="pass")


def _overridden(finding: Finding, live: Sequence[Override]) -> Finding:
    for override in live:
        if override.lets_pass(finding.measurement.statistic):
            return Finding(finding.measurement, "warn", finding.expected, override)
    return finding


def _expired(
    findings: Sequence[Finding],
    limit: int | None,
    night: date,
    warned: Callable[[Set[str]], Mapping[str, int]],
) -> list[Finding]:
    """Turn tonight's warnings that have expired into stops; add the age of the others."""
    standing = {
        (finding.measurement.statistic, finding.measurement.part)
        for finding in findings
        if finding.verdict == "warn"
        and not finding.override
        and not finding.measurement.lasting
        and of_tonight(finding.measurement.part, night)
    }
    if limit is None or not standing:
        return list(findings)
    before = warned({statistic for statistic, _ in standing})
    return [
        _aged(finding, before.get(finding.measurement.statistic, 0), limit)
        if (finding.measurement.statistic, finding.measurement.part) in standing
        else finding
        for finding in findings
    ]


def _aged(finding: Finding, before: int, limit: int) -> Finding:
    if not before:
        return finding
    over = before >= limit
    words = (
        f"warned for {counted(before, 'night')} in a row: fix it, or override it by name"
        if over
        else f"warned for {counted(before + 1, 'night')} in a row, stops after {limit}"
    )
    note = f"{finding.measurement.note}; {words}" if finding.measurement.note else words
    measurement = replace(finding.measurement, note=note)
    return replace(finding, measurement=measurement, verdict="stop" if over else "warn")


def _checks(
    family: str,
    measurements: Sequence[Measurement],
    findings: Sequence[Finding],
    limits: Mapping[str, Limit],
) -> list[Check]:
    """Make a check per statistic outside its limit, the worst first; one check if all are inside.

    Statistics include their column, so overriding each check that is shown leaves no stop.
    """
    of_family = [finding for finding in findings if finding.measurement.family == family]
    # The newest day comes first.
    of_family.sort(key=lambda finding: finding.measurement.part, reverse=True)
    of_family.sort(key=lambda finding: -WEIGHT[finding.verdict])
    by_statistic: dict[str, list[Finding]] = {}
    for finding in of_family:
        by_statistic.setdefault(finding.measurement.statistic, []).append(finding)
    if not by_statistic:
        return [_check(family, measurements, [], limits)]
    return [_check(family, measurements, group, limits) for group in by_statistic.values()]


def _check(
    family: str,
    measurements: Sequence[Measurement],
    findings: Sequence[Finding],
    limits: Mapping[str, Limit],
) -> Check:
    if findings:
        worst = findings[0]
        others = f"; and on {len(findings) - 1} more" if len(findings) > 1 else ""
        override = worst.override
        allowed = (
            f"; allowed until {override.until} by {override.name}: {override.reason}"
            if override
            else ""
        )
        return Check(
            name=worst.measurement.statistic,
            verdict=worst.verdict,
            observed=figure(worst.measurement.value),
            expected=worst.expected,
            detail=_where(worst.measurement) + others + allowed,
            findings=tuple(findings),
        )
    limit = limits.get(family)
    tightest = (limit.warn or limit.stop) if limit else None
    values = [measurement.value for measurement in measurements]
    low, high = figure(min(values)), figure(max(values))
    return Check(
        name=family,
        verdict="pass",
        observed=low if low == high else f"{low} to {high}",
        expected=in_words(tightest) if tightest else "its own bands",
        detail=f"{len(measurements)} judged" if len(measurements) > 1 else _where(measurements[0]),
    )


def _where(measurement: Measurement) -> str:
    return " · ".join(part for part in (measurement.part, measurement.note) if part)


def figure(value: float) -> str:
    """Format a number for readers."""
    if math.isnan(value):
        return "not measured"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def _summary(verdict: Verdict, checks: Sequence[Check], measurements: int) -> str:
    if verdict == "pass":
        return f"{counted(len(checks), 'check')} on {counted(measurements, 'figure')} passed"
    worst = [check for check in checks if check.verdict == verdict]
    first = worst[0]
    line = f"{first.name} is {first.observed}, expected {first.expected}"
    if first.detail:
        line += f" ({first.detail})"
    others = [check.name for check in worst[1:]]
    if not others:
        return line
    named = ", ".join(others[:NAMED]) + (", …" if len(others) > NAMED else "")
    more = counted(len(others), f"more check {verdict}s", f"more checks {verdict}")
    return f"{line}, and {more}: {named}"
