"""Frame of all gates: measures, judges, writes the result, and stops if it cannot judge."""

from __future__ import annotations

import importlib
import json
import logging
import math
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nightbid.counts import counted
from nightbid.errors import BudgetExceeded, NightbidError, StageError
from nightbid.gates.catalog import find_check
from nightbid.gates.judge import Check, Judgment, figure, judge
from nightbid.gates.measurements import Measurements
from nightbid.gates.warning_age import nights_warned
from nightbid.night.champion import ChampionPointer
from nightbid.night.task import Outcome, StageFunction, StageTask

LOG = logging.getLogger(__name__)
Measure = Callable[[StageTask], Measurements]
DATA_DOCS = "data_docs.html"
"""Name of the page of Great Expectations, in the same folder as the gate's page."""


def gate(name: str) -> Callable[[Measure], StageFunction]:
    """Make a gate of a function that measures; the limits of `gates.<name>` judge its measurements.

    Args:
        name: Field of `nightbid.config.gates.Gates` that holds the limits; the family of each
            measurement is a limit of that block.

    Returns:
        Decorator that turns the function into a stage, which writes `gate.json` and `index.html`.
        An error in the function stops the night with its reason and is never a pass. An
        interruption from outside, such as by a budget, fails the stage.
    """

    def stage_of(measure: Measure) -> StageFunction:
        @wraps(measure)
        def stage(task: StageTask) -> Outcome:
            return _run(task, name, measure)

        return stage

    return stage_of


def _run(task: StageTask, gate: str, measure: Measure) -> Outcome:
    measurements = Measurements()
    try:
        task.progress(0.1, "measuring")
        measurements = measure(task)
        task.progress(0.5, f"checking {counted(len(measurements.all), 'figure')}")
        warned = partial(nights_warned, task, gate)
        verdict = judge(gate, measurements, task.spec.gates, task.night.date, warned)
    except (BudgetExceeded, StageError):
        raise  # Interrupted from outside: the stage fails, but it is not the fault of the data.
    except Exception as error:
        # Fail closed: a gate that cannot judge must not let the night continue.
        LOG.exception("gate %s could not evaluate its checks", gate)
        verdict = _cannot_judge(gate, error)
    _write(task, verdict, measurements)
    if verdict.verdict == "stop":
        _notify(task, verdict)
    task.progress(1.0, verdict.summary)
    return Outcome(
        metrics={
            **measurements.metrics,
            "checks": [check.to_json() for check in verdict.checks],
        },
        summary=verdict.summary,
        verdict=verdict.verdict,
        volatile=("index.html", DATA_DOCS),
    )


def _cannot_judge(gate: str, error: Exception) -> Judgment:
    reason = str(error) or type(error).__name__
    reason = reason if hasattr(error, "hint") else f"{type(error).__name__}: {reason}"
    check = Check("gate", "stop", "could not judge", "a judgment", reason)
    summary = f"the gate could not evaluate its checks, so it stops: {reason}"
    return Judgment(gate, "stop", summary, (check,))


def _write(task: StageTask, verdict: Judgment, measurements: Measurements) -> None:
    findings = [finding for check in verdict.checks for finding in check.findings]
    live = task.spec.gates.live_overrides(verdict.gate, task.night.date)
    result: dict[str, Any] = {
        "gate": verdict.gate,
        "night": task.night.date.isoformat(),
        "verdict": verdict.verdict,
        "summary": verdict.summary,
        "checks": [check.to_json() for check in verdict.checks],
        "findings": [
            {
                "statistic": finding.measurement.statistic,
                "part": finding.measurement.part,
                "verdict": finding.verdict,
                "observed": _json_number(finding.measurement.value),
                "expected": finding.expected,
                "note": finding.measurement.note,
                "override": finding.override.model_dump(mode="json") if finding.override else None,
            }
            for finding in findings
        ],
        "facts": [
            [
                measurement.statistic,
                measurement.part,
                _json_number(measurement.value),
                measurement.note,
            ]
            for measurement in measurements
        ],
        "skipped": measurements.skipped,
        "validation": verdict.validation.result or {},
    }
    text = json.dumps(result, indent=1, sort_keys=True, default=str)
    (task.output / "gate.json").write_text(text)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.globals.update(counted=counted)
    failed = [check for check in verdict.checks if check.verdict != "pass" and not check.findings]
    page = environment.get_template("page.html").render(
        gate=verdict.gate,
        pipeline=task.spec.pipeline,
        night=task.night.date.isoformat(),
        run_id=task.run_id,
        verdict=verdict.verdict,
        summary=verdict.summary,
        groups=[
            ("Stops", [finding for finding in findings if finding.verdict == "stop"]),
            ("Warnings", [finding for finding in findings if finding.verdict == "warn"]),
        ],
        passed=[check for check in verdict.checks if check.verdict == "pass"] + failed,
        overrides=live,
        skipped=measurements.skipped,
        data_docs=DATA_DOCS if verdict.validation.page else "",
        figure=figure,
        check_of=partial(find_check, verdict.gate),
        serves=_serves(task),
    )
    if verdict.validation.page:
        (task.output / DATA_DOCS).write_text(verdict.validation.page, encoding="utf-8")
    (task.output / "index.html").write_text(page, encoding="utf-8")


def _serves(task: StageTask) -> str:
    """Write a text that says what serves while the night is stopped."""
    try:
        champion = ChampionPointer(task.workspace, task.spec.pipeline).current()
    except NightbidError as error:
        return str(error)
    if champion is None:
        return "nothing: there is no champion yet"
    return f"champion #{champion.number}, run {champion.run_id} of night {champion.night}"


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _notify(task: StageTask, verdict: Judgment) -> None:
    hook = task.spec.gates.notify
    if not hook:
        return
    module, _, name = hook.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        function(
            pipeline=task.spec.pipeline,
            night=task.night.date,
            run_id=task.run_id,
            gate=verdict.gate,
            summary=verdict.summary,
        )
    except Exception:
        # A failed notification does not change the verdict.
        LOG.exception("the notification hook %r failed", hook)
