"""Outputs of single days, which every night, run and pipeline with the same key shares.

A night is a list of days and what is merged of them. What depends on one day of logs lies below
`days/<kind>/<day>/<key>/` of the workspace, under a key of all that it depends on: the bytes of the
day's logs, settings, code and libraries. The name of a pipeline is no part of it.

A day's output is written beside and renamed, verified against its manifest before each use, and
made again where it is damaged or gone. `nightbid data prune` removes what no recent run needs.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from upath import UPath

from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.key import digest_of, output_digest
from nightbid.night.manifest import Manifest, Rows
from nightbid.night.sealed import seal
from nightbid.storage.verify import inventory
from nightbid.storage.workspace import (
    Workspace,
    fetch,
    inode_of,
    is_local,
    read_manifest,
    set_aside,
)

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
"""Written last: what has none is no output."""
TRIES = 3
"""A prune may remove an output between two looks at it."""
LONGEST_REASON = 120


@dataclass(frozen=True)
class DayKey:
    """What the output of one day depends on."""

    kind: str
    """What is made of the day: `sample` or `learn`."""
    day: date
    depends_on: Mapping[str, str]
    """Name → digest, or a short text that tells a reader more: `logs`, `types`, `code`, …"""
    family: str = ""
    """Begins the names of outputs that belong together and are looked for together."""

    @property
    def digest(self) -> str:
        """The key: hexadecimal digits, after the family if there is one."""
        found = digest_of([self.kind, self.day.isoformat(), dict(self.depends_on)])
        return f"{self.family}-{found}" if self.family else found


@dataclass(frozen=True)
class Made:
    """What the function that makes a day returns, beside the files it wrote."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    rows: Rows = field(default_factory=Rows)


@dataclass(frozen=True)
class DayOutput:
    """A finished and verified output of one day."""

    key: str
    manifest: Manifest
    folder: Path
    """On this machine."""
    why: str = ""
    """Why it was made now; empty: it was there."""


def day_output(
    workspace: Workspace,
    key: DayKey,
    make: Callable[[Path], Made],
    *,
    pipeline: str,
    run_id: str,
) -> DayOutput:
    """Find the output of a day, or make it.

    Two processes that make the same day at once both end with the output that was renamed first.

    Args:
        workspace: where outputs lie.
        key: what the output depends on.
        make: writes the files into an empty folder of this machine.
        pipeline: who asks first, for the manifest.
        run_id: likewise.

    Raises:
        NightbidError: what `make` raises; nothing is left of it.
        CorruptDataError: an output in a bucket is damaged.
    """
    final = day_folder(workspace, key)
    why = ""
    for _ in range(TRIES):
        inode = inode_of(final)
        try:
            if (final / MANIFEST).exists():
                manifest = read_manifest(final)
                return DayOutput(key.digest, manifest, fetch(final, manifest=manifest), why)
        except CorruptDataError as error:
            if not is_local(final):
                raise
            if not final.exists():
                continue  # pruned since the look
            name = set_aside(final, inode)
            log.warning(
                "%s of %s: damaged output set aside as %s, made again: %s",
                key.kind, key.day, name or "nothing", error.what,
            )  # fmt: skip
            why = "its output was damaged"
        except WorkspaceError:
            continue
        why = why or reason(workspace, key, pipeline)
        scratch = workspace.scratch(final)
        try:
            made = make(Path(str(scratch)))
            manifest = _manifest(key, made, Path(str(scratch)), pipeline, run_id)
            (scratch / MANIFEST).write_text(seal(manifest))
            workspace.commit(scratch, final)
        except BaseException:
            workspace.discard(scratch)
            raise
    raise WorkspaceError(
        f"the output of {key.day} is removed as soon as it is made",
        where=str(final),
        hint="is another process deleting it? rerun the stage",
    )


def known_output(workspace: Workspace, key: DayKey) -> DayOutput | None:
    """Open the output of a day if it is there and whole; nothing is made or set aside."""
    final = day_folder(workspace, key)
    try:
        manifest = read_manifest(final)
        return DayOutput(key.digest, manifest, fetch(final, manifest=manifest))
    except (CorruptDataError, WorkspaceError):
        return None


def day_folder(workspace: Workspace, key: DayKey) -> UPath:
    """Where the output with this key lies, or would lie."""
    return days_folder(workspace, key.kind, key.day) / key.digest


def days_folder(workspace: Workspace, kind: str, day: date) -> UPath:
    """Where all outputs of one kind and day lie."""
    return workspace.root / "days" / kind / day.isoformat()


def reason(workspace: Workspace, key: DayKey, pipeline: str) -> str:
    """Say why a day has to be made: what differs from the output that is most alike.

    Outputs of the same pipeline are compared; without one, the day is new.
    """
    parent = day_folder(workspace, key).parent
    found: list[list[str]] = []
    if parent.exists():
        for each in parent.iterdir():
            if each.name.startswith("."):
                continue
            try:
                other = read_manifest(each)
            except (CorruptDataError, WorkspaceError):
                continue
            if other.pipeline == pipeline:
                found.append(_differences(key.depends_on, other.inputs))
    return ", ".join(sorted(found, key=len)[0]) if found else "new"


def days_made(made: Mapping[str, str], days: int, most: int = 4, unit: str = "day") -> str:
    """Say how many days were made and which, for a stage's summary.

    Args:
        made: day → why, oldest first.
        days: in all.
        most: days to name.
        unit: what a `day` is.
    """
    if not made:
        return f"{days} {unit}s, all reused"
    if len(made) == days and set(made.values()) == {"new"}:
        return f"{days} {unit}s, all new"
    named = [f"{day} ({why})" for day, why in list(made.items())[-most:]]
    more = f" and {len(made) - most} more" if len(made) > most else ""
    return f"{days} {unit}s, {days - len(made)} reused, made {', '.join(named)}{more}"


def versions_of(libraries: Iterable[str]) -> str:
    """Versions of the libraries that compute a day, as a part of its key."""
    return ", ".join(f"{name} {_version(name)}" for name in sorted(libraries))


@cache
def _version(name: str) -> str:
    return importlib.metadata.version(name)


def _differences(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Name each part that differs, with what changed where the part is readable."""
    said = []
    for name in sorted({*mine, *theirs}):
        now, before = mine.get(name, ""), theirs.get(name, "")
        if now == before:
            continue
        text = f"{name} changed"
        if detail := _detail(before, now):
            text += f" ({detail})"
        said.append(text)
    return said


def _detail(before: str, now: str) -> str:
    try:
        old, new = json.loads(before), json.loads(now)
    except ValueError:
        return f"{before} → {now}"[:LONGEST_REASON] if " " in before and " " in now else ""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return ""
    changed = [
        f"{name}: {_shown(old.get(name))} → {_shown(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return "; ".join(changed)[:LONGEST_REASON]


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)


def _manifest(key: DayKey, made: Made, folder: Path, pipeline: str, run_id: str) -> Manifest:
    files = inventory(folder)
    return Manifest(
        pipeline=pipeline,
        run_id=run_id,
        stage=key.kind,
        night=key.day.isoformat(),
        key=key.digest,
        digest=output_digest(files),
        inputs=dict(key.depends_on),
        spec_digest="",
        code_digest=key.depends_on.get("code", ""),
        versions={},
        seed=0,
        rows=made.rows,
        metrics=dict(made.metrics),
        files=files,
        created=datetime.now(UTC),
    )
