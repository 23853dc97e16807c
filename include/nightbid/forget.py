"""Removal of the data of users from the workspace, at their request.

Rows have a hash of their user, so all copies of a user's rows are found: days, samples, featurized
rows, scores and frozen data sets. Outputs computed from such rows (statistics, vocabularies,
profiles, models) are found by the inputs in their manifests. All of these outputs are removed as a
whole, and so are damaged ones, which may have such rows. The next night computes them again from
the logs, without the users if their rows were removed from the logs too. Bundles of champions are
kept for rollbacks, but listed.
"""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from upath import UPath

from nightbid.column_parsing import hashes
from nightbid.errors import ConfigError, CorruptDataError, WorkspaceError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.retention import (
    LEFT_OVER,
    Pruning,
    Unneeded,
    comparisons,
    folders,
    names,
    outputs,
    prune,
    size_of,
)
from nightbid.schema import USER
from nightbid.shortages import remedy
from nightbid.storage.files import is_local, read_all, write_next
from nightbid.storage.workspace import Workspace, read_manifest


class Erasure(Sealed):
    """Record of a removal: what, when and by whom. It does not name the removed users."""

    at: dt.datetime
    by: str
    reason: str
    users: int
    outputs: Mapping[str, int]
    """Kind of output → number of removed outputs."""
    learned: tuple[str, ...] = Field(default=())
    """Champions whose models were trained on the users, such as `ctr #3`."""


@dataclass(frozen=True)
class AffectedData:
    """Data of the users in the workspace."""

    users: int
    rows: Mapping[str, int]
    """Kind of data → number of the users' rows."""
    outputs: tuple[Unneeded, ...]
    """Outputs that have the users' rows or were computed from them."""
    learned: tuple[Champion, ...]
    """Champions, including earlier ones, whose bundle was trained on the users' rows; kept."""


def find_users(
    workspace: Workspace, users: Sequence[str], keyed: Sequence[str] = ()
) -> AffectedData:
    """Find all data that have rows of some users or were computed from such rows.

    Args:
        workspace: Workspace to search.
        users: Ids of the users, as in the user column of the logs.
        keyed: The same ids, hashed as pipelines with `source.user_key` store them.

    Raises:
        ConfigError: No id is given.
    """
    if not any(users):
        raise ConfigError("no user id given", where="forget", hint="pass at least one id")
    user_hashes = _hashes([user for user in (*users, *keyed) if user])
    all_outputs = [
        (kind, folder, _manifest(folder))
        for kind, folder in outputs(workspace)
        if not folder.name.startswith(LEFT_OVER)
    ]
    rows: Counter[str] = Counter()
    affected: dict[str, Unneeded] = {}
    digests: set[str] = set()
    days: set[str] = set()

    def add(kind: str, folder: UPath, manifest: Manifest | None) -> None:
        created = manifest.created if manifest else dt.datetime.now(dt.UTC)
        affected[str(folder)] = Unneeded(folder, kind, size_of(folder), created)
        if manifest is not None and "days" in folder.parts[-4:]:
            days.add(manifest.night)
        elif manifest is not None:
            digests.add(manifest.digest)

    for kind, folder, manifest in (
        *all_outputs, *((kind, folder, None) for kind, folder in _other_copies(workspace))
    ):  # fmt: skip
        count, damaged = _search(folder, user_hashes)
        if count:
            rows[kind] += count
        damaged |= manifest is None and (folder / "manifest.json").exists()
        if count or damaged:
            add(kind, folder, manifest)
    while True:
        before = len(affected)
        for kind, folder, manifest in all_outputs:
            if manifest is None:
                continue
            of_day = "days" in folder.parts[-4:] and manifest.night in days
            if str(folder) not in affected and (of_day or digests & set(manifest.inputs.values())):
                add(kind, folder, manifest)
        if len(affected) == before:
            break
    learned = {
        str(workspace.at(entry.bundle_uri)): entry
        for pipeline in names(workspace.root / "champion")
        for entry in ChampionPointer(workspace, pipeline).history()
        if entry.serves and str(workspace.at(entry.bundle_uri)) in affected
    }
    removable = tuple(output for place, output in affected.items() if place not in learned)
    return AffectedData(len(set(users)), dict(rows), removable, tuple(learned.values()))


def forget(workspace: Workspace, affected: AffectedData, *, by: str, reason: str = "") -> Erasure:
    """Remove what `find_users` found, and write a record that does not name the removed users.

    Args:
        workspace: Workspace to remove from.
        affected: Data to remove.
        by: Name of the acting user.
        reason: Reason of the removal, without ids.

    Raises:
        WorkspaceError: Something could not be removed; the removal is not recorded.
    """
    prune(Pruning(affected.outputs, 0, 0)).check(workspace)
    erasure = Erasure(
        at=dt.datetime.now(dt.UTC),
        by=by,
        reason=reason,
        users=affected.users,
        outputs=dict(Counter(output.what for output in affected.outputs)),
        learned=tuple(
            dict.fromkeys(
                f"{champion.pipeline} #{champion.number}" for champion in affected.learned
            )
        ),
    )
    write_next(workspace.root / "erasures", seal(erasure))
    return erasure


def erasures(workspace: Workspace) -> list[Erasure]:
    """List all erasures, oldest first."""
    folder = workspace.root / "erasures"
    return [
        unseal(Erasure, text, folder / name, "restore this file from a backup, or delete it")
        for name, text in sorted(read_all(folder, ".json").items())
    ]


def _hashes(users: Sequence[str]) -> set[int]:
    """Hash ids as text and, if possible, as integers, because rows may have either hash."""
    hashed = set(hashes(pa.array(users)).view(np.int64).tolist())
    whole = [int(user) for user in users if user.lstrip("-").isdigit() and len(user) < 19]
    if whole:
        hashed |= set(hashes(pa.array(whole, pa.int64())).view(np.int64).tolist())
    return hashed


def _manifest(folder: UPath) -> Manifest | None:
    """Read the manifest of an output; None if it is missing or damaged."""
    try:
        return read_manifest(folder)
    except (CorruptDataError, WorkspaceError):
        return None


def _other_copies(workspace: Workspace) -> Iterator[tuple[str, UPath]]:
    """Yield folders with rows that are not outputs: frozen data, comparisons, leftovers."""
    for name in names(workspace.root / "datasets"):
        yield "frozen data sets", workspace.root / "datasets" / name
    for kind, folder in comparisons(workspace):
        yield kind, folder
    for top in ("stages", "days"):
        for _, _, folder in folders(workspace.root / top):
            if folder.name.startswith(LEFT_OVER):
                yield "left over", folder


def _search(folder: UPath, user_hashes: set[int]) -> tuple[int, bool]:
    """Count the users' rows in the Parquet files of a folder; each hard link counts.

    Returns:
        The number of rows, and whether a damaged file may have more.

    Raises:
        WorkspaceError: A file or folder cannot be read, so it is unknown whether it has rows.
    """
    count, damaged = 0, False
    values = pa.array(sorted(user_hashes), pa.int64())
    for path in _parquet_files(folder):
        try:
            with path.open("rb") as stream:
                file = pq.ParquetFile(stream)
                if USER not in file.schema_arrow.names:
                    continue
                column = file.read([USER])[USER]
        except FileNotFoundError:
            continue  # Another process has just removed it.
        except (pa.ArrowInvalid, OSError) as error:
            # Arrow's errors of a file's contents have no number of the system.
            if isinstance(error, OSError) and error.errno is not None:
                _refuse(error, path)
            damaged = True
            continue
        count += int(pa.compute.sum(pa.compute.is_in(column, values)).as_py() or 0)
    return count, damaged


def _parquet_files(folder: UPath) -> Iterator[UPath]:
    if not is_local(folder):
        yield from folder.rglob("*.parquet")
        return
    for parent, _, files in os.walk(
        str(folder), onerror=lambda error: _refuse(error, error.filename)
    ):
        yield from (UPath(parent) / name for name in files if name.endswith(".parquet"))


def _refuse(error: OSError, path: object) -> NoReturn:
    raise WorkspaceError(
        f"rows of the users may be here: it cannot be read ({error.strerror or error})",
        where=str(path),
        hint=f"{remedy(error) or 'make it readable, or delete it'}, and repeat the command",
    ) from error
