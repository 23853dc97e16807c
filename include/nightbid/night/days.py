"""Outputs of single days, shared by all nights, runs and pipelines with the same key.

A night is a list of days and the merged result. Whatever depends on one day of logs is stored below
`days/<kind>/<day>/<key>/` in the workspace. The key covers everything that the output depends on:
the bytes of the day's logs, settings, code and libraries, but not the pipeline's name.

A day's output is written to a temporary folder and renamed, verified against its manifest before
each use, and rebuilt if it is damaged or missing. `nightbid data prune` deletes unused outputs.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from upath import UPath

from nightbid.counts import counted
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.key import digest_of, output_digest
from nightbid.night.manifest import Manifest, RowCounts
from nightbid.night.sealed import seal
from nightbid.storage.files import is_local
from nightbid.storage.verify import inventory
from nightbid.storage.workspace import Workspace, fetch, inode_of, read_manifest, set_aside

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
"""Written last: a folder without a manifest is no output."""
TRIES = 3
"""Number of attempts, since a concurrent prune may delete an output between checks."""
LONGEST_REASON = 120


@dataclass(frozen=True)
class DayKey:
    """Everything that the output of one day depends on."""

    kind: str
    """Kind of the output: `sample` or `learn`."""
    day: date
    depends_on: Mapping[str, str]
    """Name → digest, or a short readable text: `logs`, `types`, `code`, …"""
    family: str = ""
    """Prefix of the names of outputs that belong together and are looked up together."""

    @property
    def digest(self) -> str:
        """The key: hexadecimal digits, after the family if there is one."""
        digest = digest_of([self.kind, self.day.isoformat(), dict(self.depends_on)])
        return f"{self.family}-{digest}" if self.family else digest


@dataclass(frozen=True)
class DayResult:
    """Returned by the function that builds a day's output, in addition to the files."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    rows: RowCounts = field(default_factory=RowCounts)


@dataclass(frozen=True)
class DayOutput:
    """A finished and verified output of one day."""

    key: str
    manifest: Manifest
    folder: Path
    """Local folder of the output."""
    why: str = ""
    """Why it was built now; empty: it already existed."""


def day_output(
    workspace: Workspace,
    key: DayKey,
    make: Callable[[Path], DayResult],
    *,
    pipeline: str,
    run_id: str,
) -> DayOutput:
    """Find the output of a day, or build it.

    If two processes build the same day at once, both use the output that was renamed first.

    Args:
        workspace: Workspace with the outputs.
        key: Everything that the output depends on.
        make: Builds the output's files in an empty local folder.
        pipeline: Name of the pipeline that requests the output, for the manifest.
        run_id: Run that requests the output, for the manifest.

    Raises:
        NightbidError: Raised by `make`; its files are deleted.
        CorruptDataError: An output in a bucket is damaged.
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
                continue  # pruned since the check
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
            result = make(Path(str(scratch)))
            manifest = _manifest(key, result, Path(str(scratch)), pipeline, run_id)
            (scratch / MANIFEST).write_text(seal(manifest))
            workspace.commit(scratch, final)
        except BaseException:
            workspace.discard(scratch)
            raise
    raise WorkspaceError(
        f"the output of {key.day} is removed as soon as it is written",
        where=str(final),
        hint="is another process deleting it? rerun the stage",
    )


def known_output(workspace: Workspace, key: DayKey) -> DayOutput | None:
    """Open the output of a day if it exists and is intact; builds nothing, sets nothing aside."""
    final = day_folder(workspace, key)
    try:
        manifest = read_manifest(final)
        return DayOutput(key.digest, manifest, fetch(final, manifest=manifest))
    except (CorruptDataError, WorkspaceError):
        return None


def day_folder(workspace: Workspace, key: DayKey) -> UPath:
    """Folder of the output with this key, whether or not it exists."""
    return days_folder(workspace, key.kind, key.day) / key.digest


def days_folder(workspace: Workspace, kind: str, day: date) -> UPath:
    """Folder of all outputs of one kind and day."""
    return workspace.root / "days" / kind / day.isoformat()


def reason(workspace: Workspace, key: DayKey, pipeline: str) -> str:
    """Explain why a day has to be built: its differences from the most similar output.

    Only outputs of the same pipeline are compared; if there is none, the day is new.
    """
    parent = day_folder(workspace, key).parent
    differences: list[list[str]] = []
    if parent.exists():
        for folder in parent.iterdir():
            if folder.name.startswith("."):
                continue
            try:
                other = read_manifest(folder)
            except (CorruptDataError, WorkspaceError):
                continue
            if other.pipeline == pipeline:
                differences.append(_differences(key.depends_on, other.inputs))
    return ", ".join(sorted(differences, key=len)[0]) if differences else "new"


def days_made(reasons: Mapping[str, str], days: int, most: int = 4, unit: str = "day") -> str:
    """Summarize how many days were built, and which, for a stage's summary.

    Args:
        reasons: Day → reason, oldest first.
        days: Total number of days.
        most: Maximum number of days to name.
        unit: What a partition is called, such as `day`.
    """
    if not reasons:
        return f"{counted(days, unit)}, all reused"
    if len(reasons) == days and len(whys := set(reasons.values())) == 1:
        why = whys.pop()
        return f"{counted(days, unit)}, all {'new' if why == 'new' else f'made again ({why})'}"
    newest = list(reasons.items())[-most:]
    named = [
        f"{', '.join(day for day, _ in same)} ({why})"
        for why, same in groupby(newest, key=itemgetter(1))
    ]
    more = f" and {len(reasons) - most} more" if len(reasons) > most else ""
    return f"{counted(days, unit)}, {days - len(reasons)} reused, made {', '.join(named)}{more}"


def versions_of(libraries: Iterable[str]) -> str:
    """Versions of the libraries that compute a day, as part of its key."""
    return ", ".join(f"{name} {_version(name)}" for name in sorted(libraries))


@cache
def _version(name: str) -> str:
    return importlib.metadata.version(name)


def _differences(parts: Mapping[str, str], earlier_parts: Mapping[str, str]) -> list[str]:
    """List the parts of the key that differ, with details for readable parts."""
    changes = []
    for name in sorted({*parts, *earlier_parts}):
        now, before = parts.get(name, ""), earlier_parts.get(name, "")
        if now == before:
            continue
        text = f"{name} changed"
        if detail := _detail(before, now):
            text += f" ({detail})"
        changes.append(text)
    return changes


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
    return "nothing" if value in (None, "") else str(value)


def _manifest(key: DayKey, result: DayResult, folder: Path, pipeline: str, run_id: str) -> Manifest:
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
        rows=result.rows,
        metrics=dict(result.metrics),
        files=files,
        created=datetime.now(UTC),
    )
