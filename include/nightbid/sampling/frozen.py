"""Named, frozen data sets, so that models can be compared on the same rows.

Freezing keeps the sampled rows of a run under a name, below `datasets/<name>/` in the workspace:
as hard links if the file system supports them, which takes no space, else as copies. A name can be
used once. Every byte of a data set is verified before each use. A pipeline uses one with
`sampling.frozen: NAME`.
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
"""Blocks of a pipeline that rows depend on, besides the logs themselves."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class FrozenData(BaseModel):
    """Description of a frozen data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pipeline: str
    run_id: str
    night: Partition
    digest: str
    """Digest of all files, as in the manifest of the stage that wrote them."""
    rows: int
    bytes: int
    created: dt.datetime
    reason: str = ""
    meaning: dict[str, object] = {}
    """Settings of the pipeline that the rows depend on: the blocks of `MEANING`."""


def freeze(workspace: Workspace, run: RunRecord, name: str, *, reason: str = "") -> FrozenData:
    """Keep the sampled rows of a run under a name. Freezing the same rows again changes nothing.

    Args:
        workspace: Workspace of the run and the data set.
        run: Run whose rows are frozen.
        name: Name of the data set: lowercase letters, digits, `.`, `_` and `-`.
        reason: Purpose of the data set.

    Raises:
        ConfigError: The name is invalid, or already used for other rows.
        MissingDataError: The run has no sampled rows.
        CorruptDataError: The rows are not those that the run wrote.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid data set name",
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
    data_set = FrozenData(
        name=name,
        pipeline=run.head.pipeline,
        run_id=run.run_id,
        night=run.date,
        digest=manifest.digest,
        rows=manifest.rows.written,
        bytes=sum(entry.size for entry in manifest.files),
        created=dt.datetime.now(dt.UTC),
        reason=reason,
        meaning={key: run.head.spec.get(key) for key in MEANING},
    )
    scratch = workspace.scratch(final)
    try:
        for relative in (*(entry.path for entry in manifest.files), "manifest.json"):
            link_or_copy(Path(str(source / relative)), Path(str(scratch / relative)))
        (scratch / "frozen.json").write_text(data_set.model_dump_json(indent=1), encoding="utf-8")
        workspace.commit(scratch, final, last="frozen.json")
    except BaseException:
        workspace.discard(scratch)
        raise
    # Another process may have taken the name at the same time.
    return _same(load(workspace, name), manifest)


def load(workspace: Workspace, name: str) -> FrozenData:
    """Load the description of a data set, without checking its rows.

    Raises:
        MissingDataError: There is no such data set.
    """
    path = _folder(workspace, name) / "frozen.json"
    if not _NAME.fullmatch(name) or not path.exists():
        known = ", ".join(data_set.name for data_set in frozen(workspace)) or "none yet"
        raise MissingDataError(
            f"no frozen data set {name!r}", where=str(workspace.root), hint=f"there are: {known}"
        )
    return _read(path)


def frozen(workspace: Workspace) -> list[FrozenData]:
    """All frozen data sets, by name."""
    folder = workspace.root / "datasets"
    if not folder.exists():
        return []
    paths = [child / "frozen.json" for child in folder.iterdir() if _NAME.fullmatch(child.name)]
    data_sets = [_read(path) for path in paths if path.exists()]
    return sorted(data_sets, key=lambda data_set: data_set.name)


def verified(workspace: Workspace, name: str) -> UPath:
    """Folder of a data set, with the `sample` stage's files, after verifying every byte.

    Raises:
        MissingDataError: There is no such data set, or one of its files is gone.
        CorruptDataError: A file was changed.
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
    # Local files are verified below, where errors name the data set and the remedy.
    local = folder if workspace.is_local else UPath(fetch(folder))
    _check(local, manifest, name)
    return local


def place(
    workspace: Workspace, name: str, spec: PipelineSpec, night: Night, folder: Path
) -> Manifest:
    """Place the rows of a data set where the stage's own output would be.

    Args:
        workspace: Workspace of the data set.
        name: Name of the data set.
        spec: Pipeline that will learn from the rows.
        night: Night of the run.
        folder: Output folder of the stage.

    Returns:
        The manifest that the rows were frozen with.

    Raises:
        ConfigError: The rows are of another night, or were sampled with other settings.
        MissingDataError, CorruptDataError: see `verified`.
    """
    data_set = load(workspace, name)
    if data_set.night != night.date:
        raise ConfigError(
            f"its rows are of the night of {data_set.night}, not of {night.date}",
            where=f"data set {name!r}",
            hint=f"run with --date {data_set.night}",
        )
    settings = spec.model_dump(mode="json")
    for key, value in data_set.meaning.items():
        # Settings that are newer than the data set had their default.
        unset = type(getattr(spec, key))().model_dump(mode="json")
        frozen_value = {**unset, **value} if isinstance(value, dict) else value
        if settings[key] != frozen_value:
            raise ConfigError(
                f"its rows were sampled with another `{key}`: {value}, not {settings[key]}",
                where=f"data set {name!r}",
                hint=f"use the `{key}` of {data_set.run_id}, or freeze rows of this pipeline",
            )
    source = verified(workspace, name)
    manifest = _manifest(source)
    for entry in manifest.files:
        link_or_copy(Path(str(source / entry.path)), folder / entry.path)
    return manifest


def name_of(workspace: Workspace, digest: str) -> str:
    """Name of the data set with a digest; empty if there is none."""
    return next((data_set.name for data_set in frozen(workspace) if data_set.digest == digest), "")


def _same(existing: FrozenData, manifest: Manifest) -> FrozenData:
    if existing.digest != manifest.digest:
        raise ConfigError(
            f"{existing.name!r} is frozen already, with other rows: those of {existing.run_id}"
            f" ({existing.digest[:12]}, not {manifest.digest[:12]})",
            where="datasets",
            hint="choose another name: the rows of a name never change",
        )
    return existing


def _check(folder: UPath, manifest: Manifest, name: str) -> None:
    for entry in manifest.files:
        if not entry.digest:
            continue  # volatile: it has no digest
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
