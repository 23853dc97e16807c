"""`nightbid data arrival` and `nightbid data late`."""

from __future__ import annotations

import datetime as dt

from rich.console import Console

from nightbid.arrival.contract import day_arrival
from nightbid.arrival.late import LateNight, late_nights
from nightbid.arrival.wait import newest_day
from nightbid.cli.listing import Listing, text_column
from nightbid.cli.output import print_json
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.storage.workspace import Workspace


def show_arrival(
    pipeline: str, night: dt.date | None, settings: Settings, console: Console, *, as_json: bool
) -> bool:
    """Show whether the newest day of a night is complete.

    Args:
        pipeline: Name of the pipeline.
        night: Date of the night; None: the current one, whose newest day is yesterday.
        settings: Settings that name the workspace and the pipelines.
        console: Console to print on.
        as_json: Whether to print JSON instead of text.

    Returns:
        Whether the newest day is complete.
    """
    spec = find_pipeline(pipeline, settings.pipelines)
    now = dt.datetime.now(dt.UTC)
    date = spec.partition_at(night) if night else spec.newest_complete(now)
    day = newest_day(spec, date)
    arrival = day_arrival(spec, day, Workspace(settings.workspace), settings.cache, now)
    ends = spec.arrival_deadline(date)
    if as_json:
        print_json(
            {
                "night": date, "day": day, "complete": arrival.is_complete, "found": arrival.found,
                "missing": arrival.missing, "deadline": ends,
                "lag_days": spec.arrival.lag_days if spec.arrival else 0,
            }
        )  # fmt: skip
        return arrival.is_complete
    state = "complete" if arrival.is_complete else "not complete"
    console.print(f"night of {date}: the logs of {day} are {state}", highlight=False)
    for mark, conditions in ((("✓"), arrival.found), (("✗"), arrival.missing)):
        for condition in conditions:
            console.print(f"  {mark} {condition}", markup=False, highlight=False, soft_wrap=True)
    if spec.arrival is None:
        console.print(
            f"{pipeline} has no `arrival` block: its nights do not wait for logs", highlight=False
        )
    elif ends is not None and not arrival.is_complete:
        lag = spec.arrival.lag_days
        then = f"uses a day up to {lag} earlier" if lag else "stops"
        console.print(f"a night waits until {ends:%Y-%m-%d %H:%M} UTC and then {then}",
                      highlight=False)  # fmt: skip
    return arrival.is_complete


def show_late(
    pipeline: str,
    nights: int,
    settings: Settings,
    console: Console,
    *,
    make: bool,
    as_json: bool,
) -> None:
    """List the nights that late or corrected days affect, and rerun them with `make`.

    Raises:
        NightbidError: A rerun night ended with this error.
    """
    spec = find_pipeline(pipeline, settings.pipelines)
    late = late_nights(spec, Workspace(settings.workspace), settings.cache, nights)
    if as_json:
        print_json(late)
        return
    if not late:
        console.print(f"no logs of the last {counted(nights, 'night')} arrived late or changed")
        return
    table = Listing("night", "run", text_column("days that changed since"))
    for night in late:
        table.add_row(str(night.night), night.run_id, _days(night))
    console.print(table)
    if not make:
        console.print(
            f"rerun them, oldest first: nightbid data late {pipeline} --make", highlight=False,
            soft_wrap=True,
        )  # fmt: skip
        return
    from nightbid.cli.night import run_nights
    from nightbid.preflight import checked_pipeline

    for night in late:
        run_nights(
            checked_pipeline(
                pipeline, settings.pipelines, night.overrides, night.night, settings.cache
            ),
            first=night.night,
            nights=1,
            settings=settings,
            overrides=night.overrides,
            run_id=night.run_id,
            until="",
            console=console,
        )


def _days(night: LateNight) -> str:
    by_change: dict[str, list[str]] = {}
    for day, change in night.days.items():
        by_change.setdefault(change, []).append(day)
    return "; ".join(f"{change}: {', '.join(days)}" for change, days in by_change.items())
