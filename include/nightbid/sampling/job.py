"""Sampling as a Beam job on Dataflow: takes units of days, writes a folder of rows for each.

Workers read the units from the bucket and write the result of `sample_unit` next to the output,
where it is not mistaken for the result. Assembling the days requires no computation on rows: the
stage does it after the job with the same function as everywhere.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.config.cloud import Cloud
from nightbid.counts import counted
from nightbid.data.folder import FolderLogs
from nightbid.data.units import FolderUnit
from nightbid.featurize.job import JobTarget, SaveResult
from nightbid.jobs.dataflow import DataflowService
from nightbid.jobs.result import RESULT, job_folder, read_result
from nightbid.jobs.store import JobRecord
from nightbid.night.task import Outcome, StageTask
from nightbid.sampling.day import LIBRARIES, UNITS
from nightbid.sampling.fetch import fetched
from nightbid.sampling.stage import prepared, run
from nightbid.sampling.units import DayUnit, sample_unit
from nightbid.sampling.window_days import units_to_sample
from nightbid.storage import gcs

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec

COMPUTING = ("apache-beam", *LIBRARIES)
"""Libraries that workers compute with; other versions may give other bytes."""

LEAST_UNITS = 4
"""Minimum number of units for a job; fewer are sampled locally before a job would start."""


class SampleResult(BaseModel):
    """Content of the job's result object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    units: dict[str, tuple[str, ...]]
    """Name of a unit → its files."""

    @classmethod
    def of(cls, written: list[tuple[str, tuple[str, ...]]]) -> SampleResult:
        """Describe a job's output: units with their files."""
        return cls(units=dict(sorted(written)))


class SampleThere(beam.DoFn):  # type: ignore[misc]
    """DoFn: samples a unit to objects in the bucket."""

    def __init__(
        self, spec: PipelineSpec, place: JobTarget, folder: str, generations: Mapping[str, int]
    ) -> None:
        self._spec = spec
        self._place = place
        self._folder = folder
        self._generations = generations

    def setup(self) -> None:
        """Check and prepare the worker, once."""
        self._place.check()
        self._place.prepare()

    def process(self, unit: DayUnit) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Sample one unit; retries write the same objects."""
        assert isinstance(unit.logs, FolderUnit)
        with tempfile.TemporaryDirectory() as name:
            logs = fetched(unit.logs, Path(name) / "logs", self._generations)
            rows = Path(name) / "rows"
            rows.mkdir()
            sample_unit(rows, replace(unit, logs=logs), self._spec)
            names = tuple(sorted(path.name for path in rows.iterdir()))
            gcs.upload(rows, names, UPath(self._folder) / unit.name)
        yield unit.name, names


def sampling_there(
    units: Sequence[DayUnit],
    spec: PipelineSpec,
    place: JobTarget,
    folder: str,
    generations: Mapping[str, int],
) -> Callable[[beam.Pipeline], Any]:
    """Build the whole job.

    Args:
        units: Units to sample.
        spec: Settings of the pipeline.
        place: Output of the stage, and requirements of the worker.
        folder: Folder of the job's files, next to the output.
        generations: Path below the source → generation of the object.
    """
    sample = SampleThere(spec, place, f"{folder}/units", generations)

    def expand(pipeline: beam.Pipeline) -> Any:
        return (
            pipeline
            | "Units" >> beam.Create(list(units), reshuffle=True)
            | "Sample" >> beam.ParDo(sample)
            | "Together" >> beam.combiners.ToList()
            | "Save result" >> beam.ParDo(SaveResult(place, f"{folder}/{RESULT}", SampleResult.of))
        )

    return expand


class SampleJob:
    """Sampling as a job, see `nightbid.jobs.job.RemoteStage`."""

    def __init__(self, cloud: Cloud, service: DataflowService) -> None:
        self._cloud = cloud
        self._service = service

    @property
    def service(self) -> DataflowService:
        """Service that runs the job."""
        return self._service

    def without_job(self, task: StageTask) -> Outcome | None:
        """Run the stage locally if only a few units, or none, have to be sampled."""
        source, window, _ = prepared(task)
        return None if len(units_to_sample(task, source, window)) >= LEAST_UNITS else run(task)

    def submit(self, task: StageTask, order: JobRecord) -> str:
        """Submit the job."""
        source, window, _ = prepared(task)
        assert isinstance(source, FolderLogs)
        units = units_to_sample(task, source, window)
        days = len({unit.day for unit in units})
        what = f"{counted(len(units), 'unit')} of {counted(days, 'day')}"
        task.progress(0.0, f"submitting a job for {what}")
        place = JobTarget(
            self._cloud,
            str(task.workspace.at(order.uri)),
            order.code_digest,
            tuple((name, importlib.metadata.version(name)) for name in COMPUTING),
            stage="sample",
        )
        folder = str(job_folder(task, order))
        expand = sampling_there(units, task.spec, place, folder, _generations(source, units))
        return self._service.submit(order, folder, expand)

    def collect(self, task: StageTask, order: JobRecord) -> Outcome:
        """Assemble the days from the files listed in the job's result.

        Raises:
            StageError: The job wrote no result.
            DataError: A day is empty, or none of its rows can be read.
        """
        folder = job_folder(task, order)
        result = read_result(folder / RESULT, order, SampleResult)
        names = [f"{unit}/{name}" for unit, files in result.units.items() for name in files]
        gcs.download(folder / "units", names, task.output / UNITS)
        return run(task)


def _generations(source: FolderLogs, units: Sequence[DayUnit]) -> dict[str, int]:
    """Generations of the objects that the units read."""
    generations = {}
    for unit in units:
        assert isinstance(unit.logs, FolderUnit)
        for part in unit.logs.parts:
            first = str(source.place.version(part.path)[0]).partition(" ")[0]
            if first.isdecimal():
                generations[part.path.relative_to(unit.logs.reader.root).as_posix()] = int(first)
    return generations
