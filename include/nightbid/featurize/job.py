"""Featurization as a Beam job on Dataflow: fit → fitted features as a side input → transform.

Workers read sampled rows from the bucket and write featurized rows to the output's place: objects
appear atomically and equal bundles write equal bytes, so retries do no harm. The worker that writes
a file reports its size and digest, collected in one result object. The stage writes the manifest,
which turns the files into an output, after the job has ended.
"""

from __future__ import annotations

import importlib.metadata
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared
from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.config.cloud import Cloud
from nightbid.config.pipeline import READ_SPLITS
from nightbid.counts import counted
from nightbid.errors import StageError
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.featurize.groups import HISTORY, Group, encode_rows, list_groups, transformed_groups
from nightbid.featurize.passes import (
    SPILL_ABOVE,
    Learn,
    MergeStatistics,
    PartialStatistics,
    rows_of,
    transformed,
)
from nightbid.featurize.stage import checked, defined, outcome
from nightbid.featurize.summary import MergeSummaries, Summary, check_rows, save_summary
from nightbid.jobs.dataflow import DataflowService
from nightbid.jobs.result import RESULT, job_folder, read_result
from nightbid.jobs.store import JobRecord
from nightbid.night.key import library_versions, source_of
from nightbid.night.manifest import FileEntry
from nightbid.night.stages import stage_named
from nightbid.night.task import Outcome, StageTask
from nightbid.storage import gcs
from nightbid.storage.verify import file_digest

COMPUTING = ("apache-beam", "numpy", "pyarrow")
"""Libraries that workers compute with; other versions may give other bytes."""
WRITTEN = "files"
"""Tag of the Beam output that lists the written files."""


class FeaturizeResult(BaseModel):
    """Content of the job's result object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: int
    rows: int
    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, groups: int, written: list[tuple[FileEntry, int]]) -> FeaturizeResult:
        """Describe a job's output.

        Args:
            groups: Number of row groups.
            written: Files, with the number of rows in each.
        """
        return cls(
            groups=groups,
            rows=sum(rows for _, rows in written),
            files=tuple(sorted((entry for entry, _ in written), key=lambda entry: entry.path)),
        )


@dataclass(frozen=True)
class JobTarget:
    """Where a worker writes, and the code and versions that it must have."""

    cloud: Cloud
    output: str
    """gs:// address of the stage's output."""
    code: str
    """Digest of the source code that is part of the output's key."""
    versions: tuple[tuple[str, str], ...]
    stage: str = "featurize"

    def prepare(self) -> None:
        """Configure access to the bucket. Repeated calls cost nothing."""
        gcs.reach(self.cloud)

    def check(self) -> None:
        """Refuse to run with other code than the key states.

        Raises:
            StageError: The worker's image is older or newer than the code that submitted the job.
        """
        hint = "rebuild and push the worker image from the code that Airflow runs"
        if (digest := source_of(stage_named(self.stage))) != self.code:
            raise StageError(
                f"the worker's code has digest {digest}, expected {self.code}",
                where="worker image",
                hint=hint,
            )
        for name, expected in self.versions:
            if (version := importlib.metadata.version(name)) != expected:
                raise StageError(
                    f"the worker has {name} {version}, expected {expected}",
                    where="worker image",
                    hint=hint,
                )

    def put(self, relative: str, content: bytes) -> FileEntry:
        """Write an object of the output."""
        import hashlib

        gcs.write(UPath(self.output) / relative, content)
        digest = hashlib.sha256(content).hexdigest()
        return FileEntry(path=relative, size=len(content), digest=digest)

    def put_all(self, save: Callable[[Path], None]) -> list[FileEntry]:
        """Write every file that `save` writes to a local folder."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save(folder)
            entries = [
                FileEntry(
                    path=path.relative_to(folder).as_posix(),
                    size=path.stat().st_size,
                    digest=file_digest(path),
                )
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            ]
            gcs.upload(folder, [entry.path for entry in entries], UPath(self.output))
        return entries


class LearnThere(Learn):
    """DoFn: computes statistics of rows in the bucket."""

    def __init__(self, definition: Definition, place: JobTarget) -> None:
        super().__init__(definition)
        self._place = place

    def setup(self) -> None:
        """Check and prepare the worker, once."""
        self._place.check()
        self._place.prepare()


class MergeThere(MergeStatistics):
    """CombineFn: merges statistics and spills large ones to the bucket."""

    def __init__(self, place: JobTarget, spill: str, limit: int) -> None:
        super().__init__(spill, limit)
        self._place = place

    def _bounded(self, part: PartialStatistics) -> PartialStatistics:
        # Dataflow does not call `setup` of a CombineFn.
        self._place.prepare()
        return super()._bounded(part)


class SaveFittedThere(beam.DoFn):  # type: ignore[misc]
    """DoFn: merged statistics → the files of the fitted features."""

    def __init__(self, definition: Definition, place: JobTarget, rows: int) -> None:
        self._definition = definition
        self._place = place
        self._rows = rows

    def process(self, element: tuple[str, PartialStatistics]) -> Iterator[list[FileEntry]]:
        """Write the files."""
        _, merged = element
        check_rows("learned from", merged.rows, self._rows)
        self._place.prepare()
        fitted = FittedFeatures.fit(self._definition, merged.statistics)
        yield self._place.put_all(lambda folder: fitted.save(folder / "fitted"))


class TransformThere(beam.DoFn):  # type: ignore[misc]
    """DoFn: row group → an object of featurized rows, and a summary of them."""

    def __init__(self, place: JobTarget) -> None:
        self._place = place
        self._shared = Shared()
        self._fitted: FittedFeatures | None = None

    def setup(self) -> None:
        """Check and prepare the worker, once."""
        self._place.check()
        self._place.prepare()

    def process(self, group: Group, files: list[FileEntry]) -> Iterator[Any]:
        """Transform one row group.

        Args:
            group: Row group to transform.
            files: Files of the fitted features, which a process downloads once for all threads.
        """
        if self._fitted is None:
            self._fitted = self._shared.acquire(lambda: self._load(files), self._place.output)
        assert self._fitted is not None
        table, summary = transformed(self._fitted, group)
        content = io.BytesIO()
        encode_rows(table, content)
        entry = self._place.put(group.target, content.getvalue())
        yield beam.pvalue.TaggedOutput(WRITTEN, (entry, len(table)))
        yield group.split, summary

    def _load(self, files: list[FileEntry]) -> FittedFeatures:
        with tempfile.TemporaryDirectory() as folder:
            names = [entry.path for entry in files]
            gcs.download(UPath(self._place.output), names, Path(folder))
            return FittedFeatures.load(Path(folder) / "fitted")


class SaveSummaryThere(beam.DoFn):  # type: ignore[misc]
    """DoFn: split and summary → two small objects."""

    def __init__(self, place: JobTarget, rows: Mapping[str, int]) -> None:
        self._place = place
        self._rows = rows

    def process(self, element: tuple[str, Summary]) -> Iterator[tuple[FileEntry, int]]:
        """Write the objects."""
        check_rows("transformed", element[1].profile.rows, self._rows[element[0]])
        self._place.prepare()
        for entry in self._place.put_all(lambda folder: save_summary(*element, folder)):
            yield entry, 0


class SaveResult(beam.DoFn):  # type: ignore[misc]
    """DoFn: writes the result object, whose existence means that the job is done.

    Args:
        place: Output that the job writes to.
        result: Address of the result object.
        describe: Makes the result of all that the job's workers wrote. It must be picklable.
    """

    def __init__(
        self, place: JobTarget, result: str, describe: Callable[[list[Any]], BaseModel]
    ) -> None:
        self._place = place
        self._result = result
        self._describe = describe

    def process(self, written: list[Any]) -> Iterator[str]:
        """Write the result object."""
        self._place.prepare()
        content = self._describe(written).model_dump_json().encode()
        gcs.write(UPath(self._result), content)
        yield self._result


def featurizing(
    groups: Sequence[Group],
    definition: Definition,
    place: JobTarget,
    result: str,
    spill: str,
    limit: int = SPILL_ABOVE,
) -> Callable[[beam.Pipeline], Any]:
    """Build the whole job.

    Args:
        groups: Row groups to read.
        definition: Definition of the features.
        place: Output to write to.
        result: Address of the result object, which is written last.
        spill: Folder for large statistics.
        limit: Maximum number of tokens of a vocabulary that a worker counts in memory.
    """
    counts = rows_of(groups)
    written = transformed_groups(groups)

    def expand(pipeline: beam.Pipeline) -> Any:
        rows = pipeline | "Row groups" >> beam.Create(list(groups), reshuffle=True)
        fitted = (
            rows
            | "Learn"
            >> beam.ParDo(LearnThere(definition, place)).with_output_types(
                tuple[str, PartialStatistics]
            )
            | "Merge statistics" >> beam.CombinePerKey(MergeThere(place, spill, limit))
            | "Save fitted" >> beam.ParDo(SaveFittedThere(definition, place, sum(counts.values())))
        )
        to_transform = rows
        if len(written) < len(groups):
            to_transform = rows | "Without history" >> beam.Filter(
                lambda group: group.split != HISTORY
            )
        done = to_transform | "Transform" >> beam.ParDo(
            TransformThere(place), beam.pvalue.AsSingleton(fitted)
        ).with_outputs(WRITTEN, main="summaries")
        summaries = (
            done.summaries
            | "Merge summaries" >> beam.CombinePerKey(MergeSummaries())
            | "Save summaries" >> beam.ParDo(SaveSummaryThere(place, counts))
        )
        learned = fitted | "Fitted files" >> beam.FlatMap(_without_rows)
        return (
            (done[WRITTEN], learned, summaries)
            | "All files" >> beam.Flatten()
            | "Together" >> beam.combiners.ToList()
            | "Save result"
            >> beam.ParDo(SaveResult(place, result, partial(FeaturizeResult.of, len(written))))
        )

    return expand


def _without_rows(files: list[FileEntry]) -> list[tuple[FileEntry, int]]:
    return [(entry, 0) for entry in files]


class FeaturizeJob:
    """Featurization as a job, see `nightbid.jobs.job.RemoteStage`."""

    def __init__(self, cloud: Cloud, service: DataflowService) -> None:
        self._cloud = cloud
        self._service = service

    @property
    def service(self) -> DataflowService:
        """Service that runs the job."""
        return self._service

    def submit(self, task: StageTask, order: JobRecord) -> str:
        """Submit the job."""
        definition = defined(task)
        sample = task.inputs["sample"]
        files: dict[str, list[UPath]] = {
            split: [
                sample.folder / entry.path
                for entry in sorted(sample.manifest.files, key=lambda entry: entry.path)
                if entry.path.startswith(f"split={split}/") and entry.path.endswith(".parquet")
            ]
            for split in READ_SPLITS
        }
        groups = checked(task.night, definition, list_groups(files))
        rows = sum(group.rows for group in groups)
        what = f"{counted(rows, 'row')} in {counted(len(groups), 'row group')}"
        task.progress(0.0, f"submitting a job for {what}")
        versions = library_versions()
        place = JobTarget(
            self._cloud,
            str(task.workspace.at(order.uri)),
            order.code_digest,
            tuple((name, versions[name]) for name in COMPUTING),
        )
        folder = str(job_folder(task, order))
        result = f"{folder}/{RESULT}"
        expand = featurizing(groups, definition, place, result, f"{folder}/counts")
        return self._service.submit(order, folder, expand)

    def collect(self, task: StageTask, order: JobRecord) -> Outcome:
        """Return the outcome from the job's result object.

        Raises:
            StageError: The job did not write all files.
        """
        path = job_folder(task, order) / RESULT
        result = read_result(path, order, FeaturizeResult)
        parts = [entry for entry in result.files if entry.path.startswith("split=")]
        if len(parts) != result.groups:
            raise StageError(
                f"job {order.job_id} wrote {counted(len(parts), 'file')} for"
                f" {counted(result.groups, 'row group')}",
                where=str(path),
                hint="a rerun submits a new job",
            )
        seconds = (datetime.now(UTC) - order.started).total_seconds()
        measured = outcome(task.workspace.at(order.uri), result.rows, seconds)
        return Outcome(
            rows=measured.rows,
            metrics=measured.metrics,
            summary=measured.summary,
            elsewhere=result.files,
        )
