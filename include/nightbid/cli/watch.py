"""`nightbid watch`: sends alerts about nights that are missing, stalled, late or damaged."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from nightbid.alerts.message import AlertMessage, send
from nightbid.alerts.watch import Patience, Watch
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings


def watch_nights(
    settings: Settings,
    *,
    expected: Sequence[str],
    patience: Patience,
    every: float,
    once: bool,
    sign: Path | None,
    console: Console,
    as_json: bool = False,
) -> int:
    """Poll the workspace, or check it once, and send new messages.

    Args:
        settings: Settings that name the workspace, the pipelines and the recipients of messages.
        expected: Names of pipelines to watch even before their schedule has created a night.
        patience: Times after which a night counts as missing, stalled or late.
        every: Seconds between polls.
        once: Whether to check only once, for cron.
        sign: File to touch after each poll, for a health check; None for none.
        console: Console to print each message on.
        as_json: Whether to print each message as a line of JSON.

    Returns:
        Number of new messages of the last poll.
    """
    for name in expected:
        find_pipeline(name, settings.pipelines)
    watch = Watch(settings, patience, expected)

    def deliver(message: AlertMessage) -> None:
        places = send(settings, message)
        if as_json:
            sys.stdout.write(json.dumps({**asdict(message), "sent": list(places)}) + "\n")
            sys.stdout.flush()
            return
        console.print(message.text, markup=False, highlight=False, soft_wrap=True)
        destinations = ", ".join(places) or "nowhere: set NIGHTBID_STOP_WEBHOOK or NIGHTBID_MAIL_TO"
        console.print(f"sent: {destinations}\n", markup=False, highlight=False, soft_wrap=True)

    while True:
        sent = watch.tell(dt.datetime.now(dt.UTC), deliver)
        if sign is not None:
            sign.touch()
        if once:
            return len(sent)
        time.sleep(every)
