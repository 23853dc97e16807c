"""Finds and removes outputs of the workspace that are no longer needed.

Needed are the outputs that a run of the last days used, those that the champion of each pipeline
was computed from, the bundles of all earlier champions (for rollbacks), and the rows of frozen data
sets. Run records, reports, the ledger and the champions' history are never removed.

An output is removed as a whole: it is renamed first (in a bucket, its manifest is deleted first),
so that an interrupted removal leaves no partial output that could be reused. The next removal
finishes it.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from upath import UPath

from nightbid.counts import counted
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.sampling.frozen import frozen
from nightbid.storage.files import is_local, remove
from nightbid.storage.workspace import Workspace, read_manifest

AHEAD = dt.timedelta(days=1)
"""Maximum time by which a run may be in the future; beyond it, a clock was wrong."""
GAP = dt.timedelta(days=366)
"""Maximum time between two consecutive runs; beyond it, a clock may have been wrong."""
LONGEST_STAGE = dt.timedelta(days=7)
"""Maximum duration of a stage: younger folders of attempts are kept."""
LEFT_OVER = (".tmp-", ".damaged-", ".pruned-")
"""Parts of folder names that killed attempts, damage and interrupted removals leave behind."""


@dataclass(frozen=True)
class Unneeded:
    """An output that is not needed, or a folder that an interrupted process left."""

    folder: UPath
    what: str
    """Kind of the output, such as `sample of ctr`, `days: learn` or `left over`."""
    size: int
    """Total size of its files, in bytes."""
    created: dt.datetime


@dataclass(frozen=True)
class Pruning:
    """Outputs that can be removed, and the number of kept outputs."""

    unneeded: tuple[Unneeded, ...]
    kept: int
    """Number of outputs that are kept."""
    freed: int
    """Bytes that the removal frees; files with a hard link in a kept output are not counted."""


@dataclass(frozen=True)
class Removal:
    """What a removal left."""

    still_needed: int = 0
    """Number of outputs that are kept because they are needed now."""
    failures: tuple[str, ...] = ()
    """Path and reason of each output that could not be removed."""

    def check(self, workspace: Workspace) -> None:
        """Raise an error if anything could not be removed.

        Raises:
            WorkspaceError: Something is left.
        """
        if self.failures:
            more = f" (and {len(self.failures) - 1:,} more)" if len(self.failures) > 1 else ""
            raise WorkspaceError(
                f"not removed: {self.failures[0]}{more}",
                where=str(workspace.root),
                hint="fix its permissions, and run the command again",
            )


@dataclass
class _Needed:
    """URIs of needed outputs, relative to the workspace."""

    uris: set[str] = field(default_factory=set)

    def add_run(self, workspace: Workspace, run: RunRecord) -> None:
        for record in run.records():
            if record.uri:
                self.uris.add(record.uri)
                self.uris.update(_days_of(workspace, record.uri))


def unneeded(workspace: Workspace, days: int, now: dt.datetime | None = None) -> Pruning:
    """Find the outputs that are no longer needed.

    Args:
        workspace: Workspace to search.
        days: Number of days; younger outputs, and those that runs of these days used, are kept.
        now: Current time, for tests; None: read the clock.

    Raises:
        CorruptDataError: The record of a run or the history of a champion is damaged, so that its
            needed outputs are unknown. Nothing is removed then.
    """
    moment = now or dt.datetime.now(dt.UTC)
    since = moment - dt.timedelta(days=days)
    needed = _needed(workspace, since)
    removable, kept = [], 0
    for kind, folder in outputs(workspace):
        if folder.name.startswith(LEFT_OVER):
            changed = dt.datetime.fromtimestamp(folder.stat().st_mtime, dt.UTC)
            # A stage that runs for days may still write to its folder.
            if changed < min(since, moment - LONGEST_STAGE):
                removable.append(Unneeded(folder, "left over", size_of(folder), changed))
            continue
        try:
            manifest = read_manifest(folder)
        except CorruptDataError:
            continue  # a damaged output is moved aside at its next use
        except WorkspaceError:
            # In a bucket, an interrupted upload or removal leaves files without a manifest.
            newest = None if is_local(folder) else _newest(folder)
            if newest is not None and newest < since:
                removable.append(Unneeded(folder, "left over", size_of(folder), newest))
            continue
        if workspace.uri(folder) in needed.uris or manifest.created >= since:
            kept += 1
        else:
            size = sum(file.size for file in manifest.files)
            removable.append(Unneeded(folder, kind, size, manifest.created))
    for kind, folder in comparisons(workspace):
        scored = dt.datetime.fromtimestamp((folder / "scores.parquet").stat().st_mtime, dt.UTC)
        if scored < since:
            removable.append(Unneeded(folder, kind, size_of(folder), scored))
        else:
            kept += 1
    return Pruning(tuple(removable), kept, _freed(removable))


def check_clock(workspace: Workspace, days: int, now: dt.datetime | None = None) -> None:
    """Check that the clock can be trusted before anything is removed by its age.

    Args:
        workspace: Workspace to check.
        days: Number of days whose runs' outputs are kept.
        now: Current time, for tests; None: read the clock.

    Raises:
        WorkspaceError: A run is in the future, no run is of the last days, or runs are years apart:
            the clock is or was wrong.
        CorruptDataError: The record of a run is damaged.
    """
    moment = now or dt.datetime.now(dt.UTC)
    used = sorted((at, f"{run.head.pipeline} {run.run_id}") for at, run in _uses(workspace))
    if not used:
        return
    hint = "check `date`; if the clock is right, add --trust-clock"
    last, name = used[-1]
    if last > moment + AHEAD:
        note = f"the run {name} is from {last:%Y-%m-%d}, but the clock says {moment:%Y-%m-%d}"
        raise WorkspaceError(f"{note}: nothing is removed", where=str(workspace.root), hint=hint)
    if last < moment - dt.timedelta(days=days):
        note = (
            f"no run is from the last {counted(days, 'day')} (the newest: {name}, {last:%Y-%m-%d})"
        )
        raise WorkspaceError(
            f"{note}, but the clock says {moment:%Y-%m-%d}: all runs would lose their outputs",
            where=str(workspace.root),
            hint=hint,
        )
    for (before, _), (after, name) in pairwise(used):
        if after - before > GAP:
            note = f"the run {name} is from {after:%Y-%m-%d}, the one before from {before:%Y-%m-%d}"
            raise WorkspaceError(
                f"{note}: nothing is removed", where=str(workspace.root), hint=hint
            )


def _uses(workspace: Workspace) -> Iterator[tuple[dt.datetime, RunRecord]]:
    """Yield the time of the last activity of each run, by the clock of that time, and the run."""
    for pipeline in names(workspace.root / "runs"):
        for run_id in names(workspace.root / "runs" / pipeline):
            if (workspace.run_folder(pipeline, run_id) / "run.json").exists():
                run = RunRecord.load(workspace, pipeline, run_id)
                started = [record.started for record in run.records()]
                yield max([run.head.started, *started]), run


def comparisons(workspace: Workspace) -> Iterator[tuple[str, UPath]]:
    """Yield folders with scores from `nightbid compare --same-rows`, which can be recomputed."""
    for pipeline in names(workspace.root / "comparisons"):
        folder = workspace.root / "comparisons" / pipeline
        for name in names(folder):
            if (folder / name / "scores.parquet").exists():
                yield f"comparison of {pipeline}", folder / name


def prune(pruning: Pruning, needed: Callable[[], Collection[str]] = frozenset) -> Removal:
    """Remove the outputs that `unneeded` found; ignores those that are gone already.

    Args:
        pruning: Outputs to remove.
        needed: Function that returns the folders that are needed now, since a night may have reused
            an output meanwhile.
    """
    hidden: list[tuple[UPath, UPath]] = []
    failures: list[str] = []
    for output in pruning.unneeded:
        if not is_local(output.folder):
            continue
        aside = output.folder.parent / f".pruned-{output.folder.name[:16]}-{uuid.uuid4().hex[:8]}"
        try:
            os.rename(str(output.folder), str(aside))
            hidden.append((output.folder, aside))
        except FileNotFoundError:
            pass
        except OSError as error:
            failures.append(f"{output.folder}: {error.strerror}")
    # Determine the needed outputs again once no process can reuse any of these.
    in_use = needed()
    still_needed = 0
    for folder, aside in hidden:
        if str(folder) in in_use:
            with suppress(OSError):  # the output was created again
                os.rename(str(aside), str(folder))
            still_needed += 1
        if left := _delete(str(aside)):
            failures.append(left)
        with suppress(OSError):  # the folder has other outputs
            os.rmdir(str(folder.parent))
    for output in pruning.unneeded:
        if is_local(output.folder):
            continue
        if str(output.folder) in in_use:
            still_needed += 1
            continue
        remove(output.folder / "manifest.json")
        for path in list(output.folder.rglob("*")):
            remove(path)
    return Removal(still_needed, tuple(failures))


def _delete(folder: str) -> str:
    """Delete a folder, or a link to one; return why a part of it is left, empty if nothing is."""
    if os.path.islink(folder):
        os.unlink(folder)
        return ""
    left: list[str] = []

    def keep(_: object, path: str, error: tuple[type, BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            left.append(f"{path}: {getattr(error[1], 'strerror', '') or error[1]}")

    shutil.rmtree(folder, onerror=keep)
    return left[0] if left else ""


def needed_now(workspace: Workspace, days: int) -> frozenset[str]:
    """Get the folders of outputs that champions, frozen rows and runs of the last days need.

    Args:
        workspace: Workspace to search.
        days: Number of days whose runs' outputs are kept.
    """
    since = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    return frozenset(str(workspace.at(uri)) for uri in _needed(workspace, since).uris if uri)


def _needed(workspace: Workspace, since: dt.datetime) -> _Needed:
    needed = _Needed()
    # A champion is needed even if the records of its pipeline's runs are gone.
    pipelines = {*names(workspace.root / "runs"), *names(workspace.root / "champion")}
    for pipeline in sorted(pipelines):
        champions = ChampionPointer(workspace, pipeline).history()
        needed.uris.update(champion.bundle_uri for champion in champions)
        run_ids = {
            data_set.run_id for data_set in frozen(workspace) if data_set.pipeline == pipeline
        }
        if champions:
            run_ids.add(champions[-1].run_id)
            run_ids.update(_maker(workspace, champions[-1].bundle_uri))
        for run_id in names(workspace.root / "runs" / pipeline):
            if not (workspace.run_folder(pipeline, run_id) / "run.json").exists():
                continue
            run = RunRecord.load(workspace, pipeline, run_id)
            used = max((record.started for record in run.records()), default=run.head.started)
            if run_id in run_ids or max(used, run.head.started) >= since:
                needed.add_run(workspace, run)
    return needed


def _maker(workspace: Workspace, uri: str) -> set[str]:
    """Get the run that created a bundle, since a later run may have promoted it again."""
    try:
        return {read_manifest(workspace.at(uri)).run_id}
    except (CorruptDataError, WorkspaceError):
        return set()


def _days_of(workspace: Workspace, uri: str) -> Iterator[str]:
    """Yield the URIs of the days that a stage's output was computed from."""
    try:
        manifest = read_manifest(workspace.at(uri))
    except (CorruptDataError, WorkspaceError):
        return
    kind = {"sample": "sample", "featurize": "learn"}.get(manifest.stage)
    for day, keys in manifest.metrics.get("day_outputs", {}).items():
        for key in [keys] if isinstance(keys, str) else keys:
            yield f"days/{kind}/{day}/{key}"


def outputs(workspace: Workspace) -> Iterator[tuple[str, UPath]]:
    """Yield all outputs of stages and days, as (kind, folder)."""
    for top, second, third in folders(workspace.root / "stages"):
        yield f"{second} of {top}", third
    for top, _, third in folders(workspace.root / "days"):
        yield f"days: {top}", third


def folders(root: UPath) -> Iterator[tuple[str, str, UPath]]:
    """Yield the folders three levels below a root, with the names of the two levels above each."""
    for top in names(root):
        for second in names(root / top):
            for third in names(root / top / second):
                yield top, second, root / top / second / third


def names(folder: UPath) -> list[str]:
    """List the folders in a folder, sorted; empty if it does not exist."""
    if not folder.exists():
        return []
    # Only a local folder has stray files, such as those of file managers.
    paths = (path for path in folder.iterdir() if not is_local(path) or path.is_dir())
    return sorted(path.name for path in paths)


def size_of(folder: UPath) -> int:
    """Get the total size of the files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _newest(folder: UPath) -> dt.datetime | None:
    """Get when the newest file of a folder was written; None if it has no files."""
    times = [path.stat().st_mtime for path in folder.rglob("*") if path.is_file()]
    return dt.datetime.fromtimestamp(max(times), dt.UTC) if times else None


def _freed(removable: list[Unneeded]) -> int:
    """Sum the bytes of the files whose hard links are all removed."""
    links: dict[tuple[int, int], int] = {}
    total = 0
    for output in removable:
        if not is_local(output.folder):
            total += output.size
            continue
        for path in Path(str(output.folder)).rglob("*"):
            if path.is_file():
                state = path.stat()
                inode = (state.st_dev, state.st_ino)
                links[inode] = links.get(inode, 0) + 1
                if links[inode] == state.st_nlink:
                    total += state.st_size
    return total
