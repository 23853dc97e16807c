"""What a stage is: a plain function ``run(task) -> Outcome``.

It reads ``task.inputs`` and writes into ``task.output``, an empty folder. `nightbid.night.key`
finds the inputs and computes the key; `nightbid.runner` meters, commits and records every stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.night.incremental import Continuation
from nightbid.night.manifest import FileEntry, Manifest, Rows, Usage, Verdict
from nightbid.night.progress import EpochWatcher, Progress, silent, unwatched
from nightbid.storage.workspace import Workspace, fetch


@dataclass(frozen=True)
class StageInput:
    """The finished output of an earlier stage."""

    manifest: Manifest
    folder: UPath

    @property
    def path(self) -> Path:
        """The output as a folder of this machine (TensorFlow and Beam read local files)."""
        return fetch(self.folder, manifest=self.manifest)

    def part(self, *prefixes: str) -> Path:
        """The same folder, where only files whose names begin so are sure to be there.

        A profile of a few kilobytes can be read where the rows beside it fit no disk.
        """
        return fetch(self.folder, prefixes, self.manifest)


@dataclass(frozen=True)
class Outcome:
    """What a stage function returns; its files lie in `task.output`."""

    rows: Rows = field(default_factory=Rows)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, small: what pages, gates and experiment tracking show."""
    summary: str = ""
    verdict: Verdict | None = None
    usage: Usage = field(default_factory=Usage)
    """Consumed elsewhere (Dataflow workers); what this machine used is metered around it."""
    volatile: tuple[str, ...] = ()
    """Relative paths or folders (ending in /) whose bytes differ between equal runs."""
    service: str = "dataflow_batch"
    """Of the price book, where `usage` was consumed; empty: its job is entered by the watchers."""
    elsewhere: tuple[FileEntry, ...] = ()
    """Files of the output that a job's workers have written at its place already."""


@dataclass(frozen=True)
class StageTask:
    """All that a stage function gets."""

    spec: PipelineSpec
    night: Night
    run_id: str
    inputs: Mapping[str, StageInput]
    """By stage name. `champion` is there if the stage asks for it and there is one; `state` is the
    earlier output that an incremental night goes on with."""
    history: tuple[StageInput, ...]
    """Outputs of the `history_of` stage on earlier nights, oldest first."""
    output: Path
    """A new, empty folder of this machine."""
    workspace: Workspace
    cache: Path
    """Downloads and derived files that are safe to delete."""
    progress: Progress = silent
    checkpoints: Path | None = None
    """What a killed attempt left of this very key, and the next may take up; gone when it ends."""
    earlier_champions: Mapping[str, StageInput] = field(default_factory=dict)
    """Number in the history → bundle, of recent champions besides the present one, for a stage
    that asks for them."""
    no_reference: str = ""
    """Why the champion is not among the inputs although it serves."""
    continuation: Continuation | None = None
    """With `train.mode: incremental`, what a training goes on with."""
    watch: EpochWatcher = unwatched
    """Told by trainings how good they are after each epoch; may end them."""


StageFunction = Callable[[StageTask], Outcome]


@dataclass(frozen=True)
class StageResult:
    """Where a stage's output lies, and whether it was there before."""

    manifest: Manifest
    uri: str
    reused: bool


def describe(result: StageResult) -> dict[str, Any]:
    """What an XCom carries: addresses and verdicts, never data."""
    return {
        "uri": result.uri,
        "stage": result.manifest.stage,
        "digest": result.manifest.digest,
        "verdict": result.manifest.verdict,
        "summary": result.manifest.summary,
        "rows": result.manifest.rows.model_dump(),
        "reused": result.reused,
    }
