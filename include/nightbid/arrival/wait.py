"""Waiting for a night's newest day of logs, and the decision at the deadline."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

from nightbid.arrival.contract import DayArrival, day_arrival
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.night.attempts import ARRIVAL, StageRecord
from nightbid.night.record import LAG, WAITING, RunRecord
from nightbid.partitions import STEPS
from nightbid.storage.files import write_atomically


def newest_day(spec: PipelineSpec, night: dt.date) -> dt.date:
    """Newest day of logs that a night reads."""
    return max(Night.of(spec, night).evaluate)


def look(spec: PipelineSpec, run: RunRecord, cache: Path, now: dt.datetime) -> DayArrival:
    """Check the newest day of a run once, and record what is missing for the run's page."""
    arrival = day_arrival(spec, newest_day(spec, run.date), run.workspace, cache, now)
    if arrival.missing:
        write_atomically(run.folder / WAITING, waiting_words(spec, run, arrival))
    return arrival


def waiting_words(spec: PipelineSpec, run: RunRecord, arrival: DayArrival) -> str:
    """Describe what the run waits for, and until when."""
    ends = spec.arrival_deadline(run.date)
    until = f" until {ends:%Y-%m-%d %H:%M} UTC" if ends else ""
    return f"waits for the logs of {arrival.day}{until}: {', '.join(arrival.missing)}"


def wait(spec: PipelineSpec, run: RunRecord, cache: Path, say: Callable[[str], None]) -> DayArrival:
    """Poll in this process until the day is complete or the deadline has passed.

    Args:
        spec: Settings of the pipeline, with an `arrival` block.
        run: Run whose newest day is checked.
        cache: Cache folder for downloads and for scans of large files.
        say: Called with a description of what is missing whenever it changes.
    """
    ends = spec.arrival_deadline(run.date)
    assert spec.arrival is not None
    assert ends is not None
    last = ""
    while True:
        now = dt.datetime.now(dt.UTC)
        arrival = look(spec, run, cache, now)
        left = (ends - now).total_seconds()
        if arrival.is_complete or left <= 0:
            return arrival
        if (message := waiting_words(spec, run, arrival)) != last:
            say(message)
            last = message
        time.sleep(min(spec.arrival.every_seconds, left))


def conclude(
    spec: PipelineSpec,
    run: RunRecord,
    cache: Path,
    arrival: DayArrival,
    *,
    now: dt.datetime,
    started: dt.datetime | None = None,
) -> tuple[PipelineSpec, str]:
    """Record whether the night proceeds, and with which days.

    Args:
        spec: Settings of the pipeline, with an `arrival` block.
        run: The run; it gets a record `arrival`, and new settings if a lag is accepted.
        cache: Cache folder for downloads and for scans of large files.
        arrival: Result of the last check.
        now: Current time.
        started: Time at which the waiting began; None: now.

    Returns:
        Settings to proceed with, and a description.

    Raises:
        MissingDataError: The day is not complete and no lag is accepted, or not yet.
    """
    ends = spec.arrival_deadline(run.date)
    assert spec.arrival is not None
    assert ends is not None
    since = started or now

    def record(state: str, summary: str, verdict: str) -> None:
        run.record(
            StageRecord.model_validate(
                {
                    "stage": ARRIVAL, "state": state, "summary": summary, "verdict": verdict,
                    "started": since, "seconds": max(0.0, (now - since).total_seconds()),
                }
            )
        )  # fmt: skip

    if arrival.is_complete:
        message = f"{arrival.day} is complete: {', '.join(arrival.found)}"
        record("done", message, "pass")
        return spec, message
    lacking = ", ".join(arrival.missing)
    if now >= ends:
        for back in range(1, spec.arrival.lag_days + 1):
            older = day_arrival(
                spec, arrival.day - back * STEPS[spec.partition], run.workspace, cache, now
            )
            if older.is_complete:
                message = (
                    f"{counted(back, spec.partition)} behind: the logs of {arrival.day}"
                    f" were not complete by {ends:%Y-%m-%d %H:%M} UTC ({lacking}); the window ends"
                    f" on {older.day}"
                )
                lagging = spec.model_copy(
                    update={
                        "window": spec.window.model_copy(
                            update={"lag_days": spec.window.lag_days + back}
                        )
                    }
                )
                others = tuple(
                    override for override in run.head.overrides if not override.startswith(LAG)
                )
                accepted = f"{LAG}{spec.partition}s={lagging.window.lag_days}"
                run.pin(lagging, run.head.code, (*others, accepted))
                record("done", message, "warn")
                return lagging, message
    error = MissingDataError(
        f"the logs of {arrival.day} are not complete: {lacking}",
        where=ARRIVAL,
        hint=f"load the day and run the night again; `nightbid data arrival {spec.pipeline}` "
        "shows the status"
        if now >= ends
        else f"`--wait` waits until {ends:%Y-%m-%d %H:%M} UTC; or run the night again later",
    )
    record("stopped", str(error), "stop")
    raise error


def accepted_lag(run: RunRecord) -> tuple[str, ...]:
    """Overrides that set a run's accepted lag; empty if it proceeded without one."""
    done = run.stage(ARRIVAL)
    if done is None or done.verdict != "warn":
        return ()
    return tuple(override for override in run.head.overrides if override.startswith(LAG))
