"""Samples the units of a night: in threads of this process, or on the workers of a Beam runner.

The same function samples a unit everywhere, to its own folder, so its files have the same bytes.
Threads of this process need no Beam, whose import alone takes longer than sampling a small day.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from nightbid.data.source import UnitOfLogs, WholeDay
from nightbid.sampling.units import COUNT, DayUnit, sample_unit

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec

Report = Callable[[int], None]
"""Called with the number of units that are done."""


def sampled(
    units: Sequence[DayUnit], spec: PipelineSpec, folder: Path, report: Report
) -> Generator[DayUnit]:
    """Sample units on the pipeline's runner.

    Args:
        units: Units in the order of their days.
        spec: Settings of the pipeline; its `runner` block selects the runner.
        folder: Folder for the results; each unit gets a subfolder of its name.
        report: Called with the number of units that are done.

    Yields:
        Each unit, once it and those before it are done.

    Raises:
        DataError: Raised by the first unit that fails.
    """
    if all((folder / unit.name / COUNT).exists() for unit in units):
        yield from units  # a job has sampled them
        return
    if spec.runner.kind != "direct" and len(units) > 1:
        from nightbid.sampling.beam import sample_on

        sample_on(units, spec, folder, report)
        yield from units
        return
    # Sources that are read as whole days share state between days: one day at a time.
    is_alone = any(isinstance(unit.logs, WholeDay) for unit in units)
    threads = 1 if is_alone else min(spec.runner.workers, len(units))
    if threads < 2:
        for done, unit in enumerate(units):
            report(done)
            _sample(folder / unit.name, unit, spec)
            yield unit
        return
    with closing(_in_threads(units, spec, folder, threads)) as finished:
        for done, unit in enumerate(finished):
            report(done + 1)
            yield unit


def _in_threads(
    units: Sequence[DayUnit], spec: PipelineSpec, folder: Path, threads: int
) -> Generator[DayUnit]:
    """Sample in threads; reading, Arrow and NumPy release the GIL."""
    stop = threading.Event()
    running: deque[tuple[DayUnit, Future[None]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for unit in units:
                if len(running) > threads:
                    done, future = running.popleft()
                    future.result()
                    yield done
                stoppable = replace(unit, logs=_Stoppable(unit.logs, stop))
                running.append((unit, pool.submit(_sample, folder / unit.name, stoppable, spec)))
            while running:
                done, future = running.popleft()
                future.result()
                yield done
        finally:
            # A failed unit or an exhausted budget ends the others at their next batch.
            stop.set()
            for _, future in running:
                future.cancel()


def _sample(folder: Path, unit: DayUnit, spec: PipelineSpec) -> None:
    folder.mkdir(parents=True)
    sample_unit(folder, unit, spec)


class _Stopped(Exception):
    """Raised in units whose result is no longer needed."""


@dataclass(frozen=True)
class _Stoppable:
    """Reads a unit until the stop event is set."""

    logs: UnitOfLogs
    stop: threading.Event

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self.logs.batches():
            if self.stop.is_set():
                raise _Stopped
            yield batch

    def figures(self) -> dict[str, float]:
        return self.logs.figures()
