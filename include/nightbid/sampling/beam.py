"""Sampling as a Beam pipeline: units of days in, folders of their rows out."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from nightbid.errors import StageError
from nightbid.featurize.runner import Watcher, passes_on
from nightbid.sampling.units import DayUnit, sample_unit

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec


class SampleUnit(beam.DoFn):  # type: ignore[misc]
    """Unit → a folder of its rows."""

    def __init__(self, spec: PipelineSpec, folder: str) -> None:
        self._spec = spec
        self._folder = folder

    def process(self, unit: DayUnit) -> Iterator[str]:
        """Sample one unit beside and rename: one that is tried again leaves no half folder."""
        final = Path(self._folder) / unit.name
        beside = final.with_name(f".{unit.name}.{uuid.uuid4().hex[:8]}")
        beside.mkdir(parents=True)
        try:
            sample_unit(beside, unit, self._spec)
            if not final.exists():
                os.rename(beside, final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        yield unit.name


def sampling(
    units: Sequence[DayUnit], spec: PipelineSpec, folder: str
) -> Callable[[beam.Pipeline], Any]:
    """Build the pass that samples; its results are folders.

    Args:
        units: what to read.
        spec: the pipeline.
        folder: that all workers reach.
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
        units: what to read.
        spec: the pipeline; of its blocks, `runner` says who.
        folder: in which each gets a folder of its name.
        report: told how many are done.

    Raises:
        DataError: what a unit raises that fails.
        StageError: the runner lost a unit.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def look() -> None:
        report(sum((folder / unit.name).exists() for unit in units))

    with passes_on(spec.runner) as run_pass, Watcher(look):
        run_pass(sampling(units, spec, str(folder)))
    lost = [unit.name for unit in units if not (folder / unit.name).exists()]
    if lost:
        raise StageError(
            f"{len(lost)} of {len(units)} units were not sampled: {', '.join(lost[:3])}",
            where="runner",
            hint="the Beam runner lost them: rerun, and try another runner",
        )
