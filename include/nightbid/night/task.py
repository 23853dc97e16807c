"""The interface of a stage: a function ``run(task) -> Outcome``.

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
from nightbid.night.manifest import FileEntry, Manifest, RowCounts, Usage, Verdict
from nightbid.night.progress import EpochWatcher, Progress, silent, unwatched
from nightbid.storage.workspace import Workspace, fetch


@dataclass(frozen=True)
class StageInput:
    """The finished output of an earlier stage."""

    manifest: Manifest
    folder: UPath

    @property
    def path(self) -> Path:
        """The output as a local folder, since TensorFlow and Beam read local files."""
        return fetch(self.folder, manifest=self.manifest)

    def part(self, *prefixes: str) -> Path:
        """The output as a local folder in which only files with these prefixes are available.

        For example, a profile of a few kilobytes can be read without the rows, which may not fit on
        disk.
        """
        return fetch(self.folder, prefixes, self.manifest)


@dataclass(frozen=True)
class Outcome:
    """Result of a stage function; its files are in `task.output`."""

    rows: RowCounts = field(default_factory=RowCounts)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Small JSON values to show on pages, in gates and in experiment tracking."""
    summary: str = ""
    verdict: Verdict | None = None
    usage: Usage = field(default_factory=Usage)
    """Resources used elsewhere (Dataflow workers); this machine's usage is metered separately."""
    volatile: tuple[str, ...] = ()
    """Relative paths, or folders (ending in /), whose bytes differ between equal runs."""
    service: str = "dataflow_batch"
    """Price book entry for `usage`; empty: watchers record the job's cost."""
    elsewhere: tuple[FileEntry, ...] = ()
    """Files that a job's workers have already written to the output's final place."""


@dataclass(frozen=True)
class StageTask:
    """Arguments of a stage function."""

    spec: PipelineSpec
    night: Night
    run_id: str
    inputs: Mapping[str, StageInput]
    """Inputs by stage name.

    `champion` is included if the stage uses it and there is one; `state` is the earlier output that
    an incremental night continues from."""
    history: tuple[StageInput, ...]
    """Outputs of the `history_of` stage on earlier nights, oldest first."""
    output: Path
    """A new, empty local folder."""
    workspace: Workspace
    cache: Path
    """Folder for downloads and derived files that are safe to delete."""
    progress: Progress = silent
    checkpoints: Path | None = None
    """Folder that keeps state of killed attempts with this key, deleted at the end; None: none."""
    earlier_champions: Mapping[str, StageInput] = field(default_factory=dict)
    """Number in the history → bundle, of recent champions other than the current one.

    Empty unless the stage asks for them."""
    no_reference: str = ""
    """Why the champion is not among the inputs although it serves; empty if it is."""
    continuation: Continuation | None = None
    """With `train.mode: incremental`, what a training continues from."""
    watch: EpochWatcher = unwatched
    """Called by trainings with the quality after each epoch; an exception ends the training."""


StageFunction = Callable[[StageTask], Outcome]


@dataclass(frozen=True)
class StageOutput:
    """Address and manifest of a stage's output, and whether it was reused."""

    manifest: Manifest
    uri: str
    reused: bool


def describe(result: StageOutput) -> dict[str, Any]:
    """Content of an XCom: addresses and verdicts, never data."""
    return {
        "uri": result.uri,
        "stage": result.manifest.stage,
        "digest": result.manifest.digest,
        "verdict": result.manifest.verdict,
        "summary": result.manifest.summary,
        "rows": result.manifest.rows.model_dump(),
        "reused": result.reused,
    }
