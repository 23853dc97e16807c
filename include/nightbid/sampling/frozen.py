"""Named, frozen data sets: two engineers who compare models do it on the same rows.

Freezing keeps the sampled rows of a run under a name, below `datasets/<name>/` of the workspace:
hard links where the file system has them, so that it costs no space, and copies elsewhere. A name
is given once. Every use of a data set first checks every byte of it. A pipeline learns from one
with `sampling.frozen: NAME`.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.sealed import unseal
from nightbid.partitions import Partition
from nightbid.storage.verify import file_digest, link_or_copy
from nightbid.storage.workspace import Workspace, fetch, read_manifest

STAGE = "sample"
MEANING = ("columns", "label", "window")
"""Blocks of a pipeline that rows depend on, beside the logs themselves."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class FrozenData(BaseModel):
    """What a name stands for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pipeline: str
    run_id: str
    night: Partition
    digest: str
    """Of all files, as in the manifest of the stage that wrote them."""
    rows: int
    bytes: int
    created: dt.datetime
    reason: str = ""
    meaning: dict[str, object] = {}
    """What the pipeline said of its rows: the blocks of `MEANING`."""


def freeze(workspace: Workspace, run: RunRecord, name: str, *, reason: str = "") -> FrozenData:
    """Keep the sampled rows of a run under a name. Freezing the same rows again changes nothing.

    Args:
        workspace: where both lie.
        run: whose rows.
        name: lower-case letters, digits, `.`, `_` and `-`.
        reason: what the data set is for.

    Raises:
        ConfigError: the name is not one, or stands for other rows already.
        MissingDataError: the run has no sampled rows.
        CorruptDataError: its rows are no longer those that it wrote.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a data set",
            where="datasets",
            hint="use at most 80 lower-case letters, digits, `.`, `_` and `-`, no leading `.`",
        )
    record = run.stage(STAGE)
    if record is None or record.state != "done" or not record.uri:
        raise MissingDataError(
            f"run {run.run_id!r} has no sampled rows",
            where=run.head.pipeline,
            hint=f"run it first: `nightbid run {run.head.pipeline} --date {run.date}"
            f" --until {STAGE}`",
        )
    source = UPath(fetch(workspace.at(record.uri)))
    manifest = _manifest(source)
    final = _folder(workspace, name)
    if (final / "frozen.json").exists():
        return _same(load(workspace, name), manifest)
    _check(source, manifest, name)
    found = FrozenData(
        name=name,
        pipeline=run.head.pipeline,
        run_id=run.run_id,
        night=run.date,
        digest=manifest.digest,
        rows=manifest.rows.written,
        bytes=sum(each.size for each in manifest.files),
        created=dt.datetime.now(dt.UTC),
        reason=reason,
        meaning={key: run.head.spec.get(key) for key in MEANING},
    )
    scratch = workspace.scratch(final)
    try:
        for relative in (*(each.path for each in manifest.files), "manifest.json"):
            link_or_copy(Path(str(source / relative)), Path(str(scratch / relative)))
        (scratch / "frozen.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
        workspace.commit(scratch, final, last="frozen.json")
    except BaseException:
        workspace.discard(scratch)
        raise
    # Somebody may have taken the name in the same moment.
    return _same(load(workspace, name), manifest)


def load(workspace: Workspace, name: str) -> FrozenData:
    """What a name stands for, without looking at its rows.

    Raises:
        MissingDataError: there is no such data set.
    """
    path = _folder(workspace, name) / "frozen.json"
    if not _NAME.fullmatch(name) or not path.exists():
        known = ", ".join(each.name for each in frozen(workspace)) or "none yet"
        raise MissingDataError(
            f"no frozen data set {name!r}", where=str(workspace.root), hint=f"there are: {known}"
        )
    return _read(path)


def frozen(workspace: Workspace) -> list[FrozenData]:
    """All frozen data sets, by name."""
    folder = workspace.root / "datasets"
    if not folder.exists():
        return []
    paths = [each / "frozen.json" for each in folder.iterdir() if _NAME.fullmatch(each.name)]
    found = [_read(path) for path in paths if path.exists()]
    return sorted(found, key=lambda each: each.name)


def verified(workspace: Workspace, name: str) -> UPath:
    """Folder of a data set whose bytes are all as they were frozen: the `sample` stage's files.

    Raises:
        MissingDataError: there is no such data set, or a file of it is gone.
        CorruptDataError: a file of it was changed.
    """
    description = load(workspace, name)
    folder = _folder(workspace, name)
    manifest = _manifest(folder)
    if manifest.digest != description.digest:
        raise CorruptDataError(
            f"its manifest has digest {manifest.digest[:12]}, not {description.digest[:12]}",
            where=f"data set {name!r}",
            hint="the frozen rows were replaced: restore them, or freeze under another name",
        )
    # A local set is checked below, where the error names the set and what to do about it.
    local = folder if workspace.is_local else UPath(fetch(folder))
    _check(local, manifest, name)
    return local


def place(
    workspace: Workspace, name: str, spec: PipelineSpec, night: Night, folder: Path
) -> Manifest:
    """Put the rows of a data set where a stage writes its own.

    Args:
        workspace: where it lies.
        name: of the data set.
        spec: the pipeline that will learn from them.
        night: the night that is run.
        folder: of the stage.

    Returns:
        The manifest that they were frozen with.

    Raises:
        ConfigError: they are of another night, or mean something else than the pipeline says.
        MissingDataError, CorruptDataError: see `verified`.
    """
    found = load(workspace, name)
    if found.night != night.date:
        raise ConfigError(
            f"its rows are of the night of {found.night}, not of {night.date}",
            where=f"data set {name!r}",
            hint=f"run with --date {found.night}",
        )
    mine = spec.model_dump(mode="json")
    for key, value in found.meaning.items():
        # A setting that is newer than the data set had its default.
        unset = type(getattr(spec, key))().model_dump(mode="json")
        theirs = {**unset, **value} if isinstance(value, dict) else value
        if mine[key] != theirs:
            raise ConfigError(
                f"its rows were sampled with another `{key}`: {value}, not {mine[key]}",
                where=f"data set {name!r}",
                hint=f"use the `{key}` of {found.run_id}, or freeze rows of this pipeline",
            )
    source = verified(workspace, name)
    manifest = _manifest(source)
    for each in manifest.files:
        link_or_copy(Path(str(source / each.path)), folder / each.path)
    return manifest


def name_of(workspace: Workspace, digest: str) -> str:
    """Name of the data set with this digest; empty if these rows were not frozen."""
    return next((each.name for each in frozen(workspace) if each.digest == digest), "")


def _same(found: FrozenData, manifest: Manifest) -> FrozenData:
    if found.digest != manifest.digest:
        raise ConfigError(
            f"{found.name!r} is frozen already, with other rows: those of {found.run_id}"
            f" ({found.digest[:12]}, not {manifest.digest[:12]})",
            where="datasets",
            hint="choose another name: what a name stands for never changes",
        )
    return found


def _check(folder: UPath, manifest: Manifest, name: str) -> None:
    for entry in manifest.files:
        if not entry.digest:
            continue  # written to differ between equal runs: no digest covers it
        path = Path(str(folder / entry.path))
        if not path.exists():
            raise MissingDataError(
                f"{entry.path} is gone",
                where=f"data set {name!r}",
                hint="restore the file, or freeze the rows of a run again under another name",
            )
        if path.stat().st_size != entry.size or file_digest(path) != entry.digest:
            raise CorruptDataError(
                f"{entry.path} is not the file that was written ({path.stat().st_size:,} bytes,"
                f" {entry.size:,} then)",
                where=f"data set {name!r}",
                hint="restore the file, or freeze the rows of a run again under another name",
            )


def _manifest(folder: UPath) -> Manifest:
    return read_manifest(folder)


def _read(path: UPath) -> FrozenData:
    hint = "restore this file from a backup, or delete its folder and freeze the rows again"
    return unseal(FrozenData, path.read_bytes(), path, hint)


def _folder(workspace: Workspace, name: str) -> UPath:
    return workspace.root / "datasets" / name
