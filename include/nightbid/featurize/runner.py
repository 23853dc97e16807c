"""Running a pass on the chosen Beam runner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from nightbid.config.pipeline import Runner
from nightbid.errors import ConfigError

POLL_SECONDS = 0.5


def run_pass(expand: Callable[[beam.Pipeline], Any], runner: Runner) -> None:
    """Run a pipeline to its end, on this machine.

    Raises:
        ConfigError: the runner is not available here.
    """
    if runner.kind != "direct":
        raise ConfigError(
            f"runner {runner.kind!r} is not available in this installation",
            where="runner.kind",
            hint="use 'direct'",
        )
    # Named, not "DirectRunner": that one first tries to download another runner.
    options = PipelineOptions(
        [],
        direct_num_workers=runner.workers,
        direct_running_mode="multi_threading" if runner.workers > 1 else "in_memory",
    )
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        expand(pipeline)


class Watcher:
    """Calls a function every half second while a pass runs: Beam tells nothing meanwhile."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._look()
