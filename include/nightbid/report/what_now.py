"""Next steps for a run: what serves meanwhile, and what to do, with commands."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from nightbid.alerts.message import what_serves
from nightbid.cost.price_book import SOON, default_book
from nightbid.errors import PriceError
from nightbid.gates.catalog import find_check
from nightbid.night.attempts import APPROVE, ARRIVAL, REQUEST
from nightbid.report.run_view import RunView, StageView
from nightbid.tracking.queue import Queue

CHECKS = 3
"""Maximum number of stopped checks whose steps are shown; the gate's table has the others."""
FRESH = dt.timedelta(hours=24)
"""Time after its start for which the page of a running run reloads."""


@dataclass(frozen=True)
class NextStep:
    """A step to take."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class WhatNow:
    """Content of the box at the top of a run's page."""

    serves: str
    steps: tuple[NextStep, ...]
    rerun: bool
    """Whether rerunning the failed tasks is one of the steps."""


def what_now(view: RunView) -> WhatNow:
    """Determine what serves and what to do about a run."""
    ended = view.deciding
    steps = [*_steps(view, ended), *_renew_prices()]
    if _waits_to_be_tracked(view):
        steps.append(
            NextStep(
                "MLflow did not accept this run. It is queued, and the next night sends it. To "
                "send it now:",
                "nightbid track --replay",
            )
        )
    serves = what_serves(view.run.workspace, view.head.pipeline)
    return WhatNow(serves, tuple(steps), ended is not None and ended.name != APPROVE)


def _steps(view: RunView, ended: StageView | None) -> Iterator[NextStep]:
    head = view.head
    again = f"nightbid run {head.pipeline} --date {head.date} --run-id {head.run_id}"
    if ended is None:
        yield from _of_a_run_that_goes_well(view)
        return
    if ended.is_gate and ended.state == "stopped":
        yield from _of_a_gate(view, ended)
        yield NextStep(
            "After you fix the cause, rerun the night; unchanged stages are reused:", again
        )
    elif ended.name == ARRIVAL:
        yield NextStep(
            "The newest day is not complete. See what is missing:",
            f"nightbid data arrival {head.pipeline} --date {head.date}",
        )
        yield NextStep(
            "Ask the team that writes the logs. When the day has arrived, rerun the night:", again
        )
    elif ended.name == APPROVE:
        yield NextStep(
            "The candidate is kept. Promote it by hand below, or wait for the next night."
        )
    elif ended.name == REQUEST:
        yield NextStep("Correct the setting named in the error, and trigger the night again.")
    elif "budget" in ended.summary:
        yield NextStep(
            "The stage was canceled; finished stages are reused. Raise the limit in `budget`, or "
            "for this run:",
            f"{again} --set budget.run_usd=AMOUNT",
        )
        yield NextStep(
            "See what caused the cost:",
            f"nightbid cost show {head.pipeline} --run-id {head.run_id}",
        )
    elif "price book: " in ended.summary:
        yield NextStep("See the prices and when they end:", "nightbid cost prices")
        yield NextStep(
            "Renew the price in a price book of your own, which NIGHTBID_PRICES names "
            "(docs/cost.md). Then rerun the night; finished stages are reused:",
            again,
        )
    elif ended.name == "sample":
        yield NextStep(
            "See which days the source has:",
            f"nightbid data days {head.pipeline}",
        )
        yield NextStep("Load the missing or damaged days, then rerun the night:", again)
    else:
        yield NextStep(f"Read the last line of the log of {ended.name}: it says what to do.")
        yield NextStep("A rerun is safe: a failed stage leaves nothing.", again)


def _renew_prices() -> Iterator[NextStep]:
    today = dt.datetime.now(dt.UTC).date()
    # A book that cannot be read stops nights, with its message; it must not hide the page.
    with suppress(PriceError):
        last = default_book().last_day()
        if today <= last <= today + SOON:
            yield NextStep(
                f"The prices end on {last}, and nights after it stop. Renew them in a price book "
                "of your own, which NIGHTBID_PRICES names (docs/cost.md):",
                "nightbid cost prices",
            )


def _of_a_run_that_goes_well(view: RunView) -> Iterator[NextStep]:
    head = view.head
    if view.state == "running":
        if view.waits_for_person:
            yield NextStep("The promotion waits for approval: approve or reject it in Airflow.")
        elif not any(stage.live for stage in view.stages):
            yield NextStep(
                "No stage is running. If nothing happens for ten minutes, check that the "
                "scheduler and the triggerer are running, or continue from the shell:",
                f"nightbid run {head.pipeline} --date {head.date} --run-id {head.run_id}",
            )
        return
    if view.behind:
        yield NextStep(
            "When the late day has arrived, rerun this night:",
            f"nightbid data late {head.pipeline} --make",
        )
    decision = view.stage("promote").metrics.get("decision")
    if decision == "promoted":
        yield NextStep(
            "If it performs badly in production, roll back to the previous champion:",
            f'nightbid rollback {head.pipeline} --reason "why"',
        )
    elif decision == "kept":
        yield NextStep("The champion stays. No action is needed.")


def _of_a_gate(view: RunView, gate: StageView) -> Iterator[NextStep]:
    name = gate.name.removeprefix("gate_")
    stopped = [
        check["name"] for check in gate.metrics.get("checks") or [] if check["verdict"] == "stop"
    ]
    for check in stopped[:CHECKS]:
        doc = find_check(name, check)
        if doc is None:
            continue
        steps = " ".join(doc.steps(view.head.pipeline, str(view.head.date)))
        yield NextStep(f"{check}: {doc.meaning} Likely: {doc.causes}. {steps}")
    if stopped:
        first = find_check(name, stopped[0])
        if first is not None:
            yield NextStep(
                "To let a check pass for a while, with your name and a reason:",
                first.command(view.head.pipeline, stopped[0], str(view.head.date)),
            )


def _waits_to_be_tracked(view: RunView) -> bool:
    queue = Queue(view.run.workspace)
    return queue.holds(view.head.pipeline, view.head.run_id)


def is_live(view: RunView, now: dt.datetime) -> bool:
    """Whether the page of a run reloads by itself."""
    return view.state == "running" and now - view.head.started < FRESH
