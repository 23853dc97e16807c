"""Sampling as a Beam pipeline: takes units of days, writes a folder of rows for each."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from nightbid.counts import counted
from nightbid.errors import StageError
from nightbid.featurize.runner import PassTicker, passes_on
from nightbid.sampling.units import DayUnit, sample_unit

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec


class SampleUnit(beam.DoFn):  # type: ignore[misc]
    """DoFn: samples a unit to a folder of its rows."""

    def __init__(self, spec: PipelineSpec, folder: str) -> None:
        self._spec = spec
        self._folder = folder

    def process(self, unit: DayUnit) -> Iterator[str]:
        """Sample one unit to a temporary folder and rename it: retries leave no partial one."""
        final = Path(self._folder) / unit.name
        temporary = final.with_name(f".{unit.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir(parents=True)
        try:
            sample_unit(temporary, unit, self._spec)
            if not final.exists():
                os.rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        yield unit.name


def sampling(
    units: Sequence[DayUnit], spec: PipelineSpec, folder: str
) -> Callable[[beam.Pipeline], Any]:
    """Build the pass that samples; its results are folders.

    Args:
        units: Units to sample.
        spec: Settings of the pipeline.
        folder: Folder for the results, shared by all workers.
    """

    def expand(pipeline: beam.Pipeline) -> Any:
        return (
            pipeline
            | "Units" >> beam.Create(list(units), reshuffle=True)
            | "Sample" >> beam.ParDo(SampleUnit(spec, folder))
        )

    return expand


def sample_on(
    units: Sequence[DayUnit], spec: PipelineSpec, folder: Path, report: Callable[[int], None]
) -> None:
    """Sample units on the pipeline's Beam runner.

    Args:
        units: Units to sample.
        spec: Settings of the pipeline; its `runner` block selects the runner.
        folder: Folder for the results; each unit gets a subfolder of its name.
        report: Called with the number of units that are done.

    Raises:
        DataError: Raised by a unit that fails.
        StageError: The runner lost a unit.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def look() -> None:
        report(sum((folder / unit.name).exists() for unit in units))

    with passes_on(spec.runner) as run_pass, PassTicker(look):
        run_pass(sampling(units, spec, str(folder)))
    lost = [unit.name for unit in units if not (folder / unit.name).exists()]
    if lost:
        raise StageError(
            f"{len(lost)} of {counted(len(units), 'unit')} not sampled: {', '.join(lost[:3])}",
            where="runner",
            hint="the Beam runner lost them: rerun, and try another runner",
        )
