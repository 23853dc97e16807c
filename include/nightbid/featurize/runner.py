"""Runs a pass on the selected Beam runner."""

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
from nightbid.errors import StageError

POLL_SECONDS = 0.5
PARTITIONS = 4
"""Number of Dask tasks per worker, so that a slow task does not delay the others for long."""


@runtime_checkable
class RunsHere(Protocol):
    """A pass that can run without Beam, in threads of this process."""

    def run_here(self) -> None:
        """Run the pass to its end."""
        ...


Expand = Callable[[beam.Pipeline], Any]
"""Adds the transforms of one pass to a pipeline."""
BeamEngine = tuple[Any, dict[str, Any], Callable[[], AbstractContextManager[None]]]
"""Beam's runner, its options, and a context manager around each pass."""


@contextmanager
def passes_on(runner: Runner) -> Iterator[Callable[[Expand], None]]:
    """Prepare the selected engine; yields a function that runs one pass on it to its end.

    Local passes do not use Beam, whose start and stop take longer than a small day.
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


def _direct() -> BeamEngine:
    """One worker in this process."""
    # An instance, not "DirectRunner", which first tries to download another runner. In memory and
    # with one thread, because Beam's multi_threading mode sends written data every second, even
    # partial elements, which are read as garbage: rows were lost, or memory ran out.
    options = {"direct_num_workers": 1, "direct_running_mode": "in_memory"}
    return FnApiRunner(), options, nullcontext


def threads_of(runner: Runner) -> int:
    """Threads per worker of the engine: the direct one has one worker, Dask many processes."""
    return runner.workers if runner.kind == "direct" else 1


@contextmanager
def _dask(runner: Runner) -> Iterator[BeamEngine]:
    """Worker processes of Dask, from a running scheduler or on this machine."""
    from apache_beam.runners.dask.dask_runner import DaskRunner
    from distributed import LocalCluster

    # Errors of workers are raised here too, in one line. `silence_logs` silences the workers and
    # Dask's own handlers, but not those of the command line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)

    with ExitStack() as stack:
        address = runner.scheduler
        if not address:
            cluster = LocalCluster(
                n_workers=runner.workers,
                threads_per_worker=1,
                # A free port: otherwise a second concurrent night warns that 8787 is in use.
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,
            )
            address = stack.enter_context(cluster).scheduler_address
        # By default up to 128 batches of row groups form one task of one worker.
        tasks = PARTITIONS * runner.workers
        yield DaskRunner(), {"address": address, "npartitions": tasks}, _disconnecting


@contextmanager
def _disconnecting() -> Iterator[None]:
    """Close the client of one pass, since the runner connects and never disconnects.

    A client that is left open searches for its scheduler at exit and logs long errors.

    Raises:
        StageError: A task was given up because its workers died.
    """
    from distributed import KilledWorker, default_client

    try:
        yield
    except KilledWorker as error:
        times = error.allowed_failures + 1
        raise StageError(
            f"Dask workers were killed {times} times at one task, often because memory ran out",
            where="runner",
            hint="set runner.workers lower, or give their machines more memory",
        ) from error
    finally:
        with suppress(ValueError):  # the runner failed before it connected
            default_client().close()


class PassTicker:
    """Calls a function every half second during a pass, while Beam reports nothing."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PassTicker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._look()
