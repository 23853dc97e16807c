"""Running a pass on the chosen Beam runner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, Protocol, runtime_checkable

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from nightbid.config.pipeline import Runner

POLL_SECONDS = 0.5
PARTITIONS = 4
"""Tasks per worker of Dask: one that is slow does not keep the others waiting for long."""


@runtime_checkable
class RunsHere(Protocol):
    """A pass that can do without Beam, in threads of this process."""

    def run_here(self) -> None:
        """Run it to its end."""
        ...


Expand = Callable[[beam.Pipeline], Any]
"""Adds the transforms of one pass to a pipeline."""
Engine = tuple[Any, dict[str, Any], Callable[[], AbstractContextManager[None]]]
"""Beam's runner, its options, and what is around each pass."""


@contextmanager
def passes_on(runner: Runner) -> Iterator[Callable[[Expand], None]]:
    """Make the chosen engine ready; what is yielded runs one pass on it, to its end.

    A pass that runs here needs no Beam: to start and stop that takes longer than a small day.
    """
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    with _dask(runner) if runner.kind == "dask" else nullcontext(_direct()) as chosen:

        def run(expand: Expand) -> None:
            if isinstance(expand, RunsHere) and runner.kind == "direct":
                expand.run_here()
                return
            engine, options, around = chosen
            with around(), beam.Pipeline(engine, PipelineOptions([], **options)) as pipeline:
                expand(pipeline)

        yield run


def _direct() -> Engine:
    """One worker in this process."""
    # Named, not "DirectRunner": that one first tries to download another runner. In memory, with
    # one thread: Beam's multi_threading sends what a worker has written every second, even half an
    # element, and what is read of it is garbage: rows were lost, or memory ran out.
    options = {"direct_num_workers": 1, "direct_running_mode": "in_memory"}
    return FnApiRunner(), options, nullcontext


def threads_of(runner: Runner) -> int:
    """Threads that one worker of the engine uses: `passes_on` has one worker, or many processes."""
    return runner.workers if runner.kind == "direct" else 1


@contextmanager
def _dask(runner: Runner) -> Iterator[Engine]:
    """Worker processes of Dask: those of a running scheduler, or of this machine."""
    from apache_beam.runners.dask.dask_runner import DaskRunner
    from distributed import LocalCluster

    with ExitStack() as stack:
        address = runner.scheduler
        if not address:
            cluster = LocalCluster(
                n_workers=runner.workers,
                threads_per_worker=1,
                # A free port: without an address, a second night at once warns that 8787 is taken.
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                # What a worker raises is raised here too, in one line.
                silence_logs=logging.CRITICAL,
            )
            address = stack.enter_context(cluster).scheduler_address
        # Else up to 128 batches of row groups are one task, of one worker.
        tasks = PARTITIONS * runner.workers
        yield DaskRunner(), {"address": address, "npartitions": tasks}, _disconnecting


@contextmanager
def _disconnecting() -> Iterator[None]:
    """Close the client of one pass: the runner connects and never disconnects.

    A client that is left looks for a scheduler that is gone, and says so at length at the end.
    """
    from distributed import default_client

    try:
        yield
    finally:
        with suppress(ValueError):  # the runner failed before it had one
            default_client().close()


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
