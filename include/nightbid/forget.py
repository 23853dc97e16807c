"""Removing what the workspace keeps of some users, at their request.

Rows carry a hash of their user, so every copy of a user's rows is found: days, samples, featurized
rows, scores and frozen data sets. What was made of such rows (statistics, vocabularies, profiles,
models) is found by the manifests' inputs. All of it is removed whole; the next night makes it again
from the logs, without the users if their rows are gone from the logs too. Bundles that served are
kept for rollbacks, and named.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
from nightbid.storage.workspace import Workspace, read_all, read_manifest, write_once


class Erasure(Sealed):
    """What was removed, when and by whom. The users are not named."""

    at: dt.datetime
    by: str
    reason: str
    users: int
    outputs: Mapping[str, int]
    """What was removed → how many outputs."""
    learned: tuple[str, ...] = Field(default=())
    """Champions whose models have learned from the users, as `ctr #3`."""


@dataclass(frozen=True)
class Found:
    """Where the users are."""

    users: int
    rows: Mapping[str, int]
    """What holds rows of them → how many rows."""
    outputs: tuple[Unneeded, ...]
    """What holds their rows, or was made of such rows."""
    learned: tuple[Champion, ...]
    """Champions, also earlier ones, whose bundle was made of their rows; kept."""


def find_users(workspace: Workspace, users: Sequence[str], keyed: Sequence[str] = ()) -> Found:
    """Find everything that holds rows of some users, or was made of such rows.

    Args:
        workspace: Where to look.
        users: Their ids, as in the user column of the logs.
        keyed: The same ids as pipelines with `source.user_key` have them.

    Raises:
        ConfigError: No id is given.
    """
    if not any(users):
        raise ConfigError("no user is named", where="forget", hint="give one id or more")
    wanted = _hashes([*users, *keyed])
    all_outputs = [
        (what, folder, manifest)
        for what, folder in outputs(workspace)
        if not folder.name.startswith(LEFT_OVER) and (manifest := _manifest(folder)) is not None
    ]
    rows: Counter[str] = Counter()
    affected: dict[str, Unneeded] = {}
    digests: set[str] = set()
    days: set[str] = set()

    def add(what: str, folder: UPath, manifest: Manifest | None) -> None:
        created = manifest.created if manifest else dt.datetime.now(dt.UTC)
        affected[str(folder)] = Unneeded(folder, what, size_of(folder), created)
        if manifest is not None and "days" in folder.parts[-4:]:
            days.add(manifest.night)
        elif manifest is not None:
            digests.add(manifest.digest)

    for what, folder, manifest in all_outputs:
        if count := _count(folder, wanted):
            rows[what] += count
            add(what, folder, manifest)
    for what, folder in _other_copies(workspace):
        if count := _count(folder, wanted):
            rows[what] += count
            add(what, folder, None)
    while True:
        before = len(affected)
        for what, folder, manifest in all_outputs:
            of_day = "days" in folder.parts[-4:] and manifest.night in days
            if str(folder) not in affected and (of_day or digests & set(manifest.inputs.values())):
                add(what, folder, manifest)
        if len(affected) == before:
            break
    learned = {
        str(workspace.at(entry.bundle_uri)): entry
        for pipeline in names(workspace.root / "champion")
        for entry in ChampionPointer(workspace, pipeline).history()
        if entry.serves and str(workspace.at(entry.bundle_uri)) in affected
    }
    gone = tuple(each for place, each in affected.items() if place not in learned)
    return Found(len(set(users)), dict(rows), gone, tuple(learned.values()))


def forget(workspace: Workspace, found: Found, *, by: str, reason: str = "") -> Erasure:
    """Remove what `find_users` found, and leave a record that does not name the users.

    Args:
        workspace: Where it lies.
        found: What to remove.
        by: Person who does it.
        reason: Why.
    """
    prune(Pruning(found.outputs, 0, 0))
    erasure = Erasure(
        at=dt.datetime.now(dt.UTC),
        by=by,
        reason=reason,
        users=found.users,
        outputs=dict(Counter(each.what for each in found.outputs)),
        learned=tuple(dict.fromkeys(f"{e.pipeline} #{e.number}" for e in found.learned)),
    )
    number = len(erasures(workspace)) + 1
    while True:
        try:
            write_once(workspace.root / "erasures" / f"{number:06d}.json", seal(erasure))
        except FileExistsError:
            number += 1
        else:
            return erasure


def erasures(workspace: Workspace) -> list[Erasure]:
    """Every erasure, oldest first."""
    folder = workspace.root / "erasures"
    return [
        unseal(Erasure, text, folder / name, "restore this file from a backup, or delete it")
        for name, text in sorted(read_all(folder, ".json").items())
    ]


def _hashes(users: Sequence[str]) -> set[int]:
    """Hashes of ids as text and, where they are integers, as integers: as rows may hold them."""
    found = set(hashes(pa.array(users)).view(np.int64).tolist())
    whole = [int(user) for user in users if user.lstrip("-").isdigit() and len(user) < 19]
    if whole:
        found |= set(hashes(pa.array(whole, pa.int64())).view(np.int64).tolist())
    return found


def _manifest(folder: UPath) -> Manifest | None:
    try:
        return read_manifest(folder)
    except (CorruptDataError, WorkspaceError):
        return None


def _other_copies(workspace: Workspace) -> Iterator[tuple[str, UPath]]:
    """Folders with rows that are no output: frozen data, comparisons, what was set aside."""
    for name in names(workspace.root / "datasets"):
        yield "frozen data sets", workspace.root / "datasets" / name
    for what, folder in comparisons(workspace):
        yield what, folder
    for top in ("stages", "days"):
        for _, _, folder in folders(workspace.root / top):
            if folder.name.startswith(LEFT_OVER):
                yield "left over", folder


def _count(folder: UPath, wanted: set[int]) -> int:
    """Rows of the users in the Parquet files below a folder; every name of a file counts."""
    count = 0
    values = pa.array(sorted(wanted), pa.int64())
    for path in folder.rglob("*.parquet"):
        try:
            with path.open("rb") as stream:
                file = pq.ParquetFile(stream)
                if USER not in file.schema_arrow.names:
                    continue
                column = file.read([USER])[USER]
        except (OSError, pa.ArrowException):
            continue  # Damaged: it is set aside when it is next used, and found there.
        count += int(pa.compute.sum(pa.compute.is_in(column, values)).as_py() or 0)
    return count
