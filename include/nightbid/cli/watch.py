"""`nightbid watch`: tells people about nights that are missing, stalled, late or damaged."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from nightbid.alerts.message import Message, send
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
    """Look at the workspace again and again, or once, and send what is new.

    Args:
        settings: Name the workspace, the pipelines and where messages go.
        expected: Pipelines that are watched before their schedule has made a night.
        patience: How long silence is waited for.
        every: Seconds between looks.
        once: Look once, for cron.
        sign: File to touch after each look.
        console: Where each message is shown as well.
        as_json: Show each message as a line of JSON instead.

    Returns:
        How many messages were new at the last look.
    """
    for name in expected:
        find_pipeline(name, settings.pipelines)
    watch = Watch(settings, patience, expected)

    def deliver(message: Message) -> None:
        places = send(settings, message)
        if as_json:
            sys.stdout.write(json.dumps({**asdict(message), "sent": list(places)}) + "\n")
            sys.stdout.flush()
            return
        console.print(message.text, markup=False, highlight=False, soft_wrap=True)
        said = ", ".join(places) or "nowhere: set NIGHTBID_STOP_WEBHOOK or NIGHTBID_MAIL_TO"
        console.print(f"sent: {said}\n", markup=False, highlight=False, soft_wrap=True)

    while True:
        sent = watch.tell(dt.datetime.now(dt.UTC), deliver)
        if sign is not None:
            sign.touch()
        if once:
            return len(sent)
        time.sleep(every)
