"""Cached reading of the small records of many runs.

Stage records, manifests and ledger entries never change once written, so they are cached by path. A
run's head and a folder's listing are cached by the time of their last change. A page of a thousand
runs then costs a few thousand `stat` calls.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from time import time_ns

from upath import UPath

from nightbid.clock import is_fresh
from nightbid.cost.budget import CEASED_SECONDS, read_usage_log
from nightbid.cost.entries import LedgerEntry, fold
from nightbid.cost.ledger import Ledger, database
from nightbid.cost.ledger_files import read_batch, read_compacted
from nightbid.errors import CorruptDataError
from nightbid.night.attempts import StageRecord, order
from nightbid.night.head import GONE, RunHead
from nightbid.night.manifest import Manifest
from nightbid.night.record import WAITING, RunRecord
from nightbid.night.sealed import unseal
from nightbid.storage.workspace import RERUN, Workspace

log = logging.getLogger(__name__)

OWN_SUMMARY = "summary.json"
"""Name of the file in a run's folder with the summary that its night wrote."""
_KEPT = 65536


def pipelines(workspace: Workspace) -> list[str]:
    """List the names of the pipelines that have run, sorted."""
    folder = workspace.root / "runs"
    names = _names(folder)
    if _is_local(folder):  # which may also have stray files
        names = [name for name in names if os.path.isdir(f"{folder}/{name}")]
    return sorted(names)


def stage_records(run: RunRecord) -> list[StageRecord]:
    """List all attempts of all stages of a run, oldest first."""
    folder = run.folder / "stages"
    names = [name for name in _names(folder) if name.endswith(".json")]
    return sorted((_record(f"{folder}/{name}") for name in names), key=order)


def manifest(workspace: Workspace, uri: str) -> Manifest | None:
    """Get the manifest of an output, without its list of files; None if deleted or damaged."""
    try:
        return _manifest(str(workspace.at(uri) / "manifest.json"))
    except FileNotFoundError:
        return None
    except CorruptDataError as error:
        log.warning("left out: %s", error)
        return None


def live_stages(run: RunRecord) -> dict[str, str]:
    """Map each running stage to a short text about its progress.

    A running stage writes its usage every few seconds. A stage whose newest sample is older than
    `CEASED_SECONDS` has ended or was killed.
    """
    ended = {(record.stage, record.attempt) for record in stage_records(run)}
    progress: dict[str, str] = {}
    for stage, attempt in run.usage_logs():
        sample = (
            None
            if (stage, attempt) in ended
            else read_usage_log(run.folder / "usage" / f"{stage}.{attempt}.jsonl")
        )
        if sample is not None and is_fresh(sample.at, CEASED_SECONDS):
            seconds = f"{sample.usage.wall_seconds:.0f} s"
            progress[stage] = (
                f"{sample.done:.0%} after {seconds}" if sample.done else f"for {seconds}"
            )
    return progress


def waiting_words(run: RunRecord) -> str:
    """Say what a run waits for before its first stage; empty if it does not wait (any more)."""
    path = run.folder / WAITING
    try:
        looked = path.stat().st_mtime
        if any(record.started.timestamp() >= looked for record in stage_records(run)):
            return ""
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def run_ids(workspace: Workspace, pipeline: str) -> list[str]:
    """List the ids of the runs of a pipeline, sorted, without opening the runs."""
    return _names(workspace.root / "runs" / pipeline)


def run(workspace: Workspace, pipeline: str, run_id: str) -> RunRecord | None:
    """Load a run by an id of `run_ids`; None if it has not started or its record is damaged."""
    path = workspace.run_folder(pipeline, run_id) / "run.json"
    time = _changed(path)
    if time is None:
        return None
    try:
        head = _head(str(path), time) if _settled(time) else _head.__wrapped__(str(path), time)
    except CorruptDataError as error:
        # One damaged record must not hide all other runs.
        log.warning("a run is left out: %s", error)
        return None
    return RunRecord(workspace, head)


def stamp(
    workspace: Workspace, pipeline: str, run_id: str, marks: Mapping[str, int] | None = None
) -> tuple[int | None, ...] | None:
    """Get a value that changes whenever anything that pages show of a run changes.

    None while the run is changing, or if times of change are unknown. A compaction of the ledger
    does not change the costs.

    Args:
        workspace: Workspace of the run.
        pipeline: Name of the pipeline.
        run_id: Id of the run.
        marks: Marks of the ledger, see `ledger_marks`.
    """
    if not workspace.is_local:
        return None
    root = str(workspace.root)
    paths = [f"runs/{pipeline}/{run_id}/run.json", f"runs/{pipeline}/{run_id}/stages"]
    if marks is None:
        paths.append(f"ledger/entries/{pipeline}/{run_id}")
    times = tuple(_time(f"{root}/{path}") for path in paths)
    if not all(map(_settled, times)):
        return None
    return times if marks is None else (*times, marks.get(run_id))


def state(workspace: Workspace, pipeline: str, run_id: str, marks: Mapping[str, int] | None) -> str:
    """Get a value that identifies the set of records of a run, also in a copied workspace.

    Records and ledger entries never change once written, so their names identify them. Empty if the
    run has not started.

    Args:
        workspace: Workspace of the run.
        pipeline: Name of the pipeline.
        run_id: Id of the run.
        marks: Marks of the ledger, see `ledger_marks`.
    """
    folder = f"{workspace.root}/runs/{pipeline}/{run_id}"
    try:
        content = hashlib.sha256(_bytes(f"{folder}/run.json"))
    except FileNotFoundError:
        return ""
    entered = f"{workspace.root}/ledger/entries/{pipeline}/{run_id}"
    for names in (
        _names_now(f"{folder}/stages"),
        _names_now(entered) if marks is None else [str(marks.get(run_id))],
    ):
        content.update("\n".join(["", *sorted(names)]).encode())
    return content.hexdigest()[:32]


def own_summary(workspace: Workspace, pipeline: str, run_id: str) -> bytes | None:
    """Read the summary that the night of a run wrote; None if there is none."""
    try:
        return _bytes(f"{workspace.root}/runs/{pipeline}/{run_id}/{OWN_SUMMARY}")
    except FileNotFoundError:
        return None


def ledger_marks(pipeline: str) -> dict[str, int] | None:
    """Get the marks of the ledger in PostgreSQL by run; None if the ledger is in files."""
    address = database()
    if address is None:
        return None
    from nightbid.cost.ledger_postgres import PostgresLedger

    return PostgresLedger(address).marks(pipeline)


def costs(run: RunRecord) -> list[LedgerEntry]:
    """List the costs of a run, each key once."""
    if database() is not None:
        return Ledger(run.workspace).entries(pipeline=run.head.pipeline, run_id=run.run_id)
    ledger = run.workspace.root / "ledger"
    loose = ledger / "entries" / run.head.pipeline / run.run_id
    names = [name for name in _names(loose) if _is_entries(name)]
    entries = [entry for name in names for entry in _entries(f"{loose}/{name}")]
    compacted = ledger / "compacted"
    files = tuple(f"{compacted}/{name}" for name in _names(compacted) if _is_entries(name))
    if files:
        entries += _compacted(files).get((run.head.pipeline, run.run_id), ())
    return fold(entries)


def _is_entries(name: str) -> bool:
    return not name.startswith(".") and name.endswith((".json", ".parquet"))


def _names(folder: UPath) -> list[str]:
    if not _is_local(folder):
        return [path.name for path in folder.iterdir()] if folder.exists() else []
    time = _changed(folder)
    if time is None:
        return []
    if not _settled(time):
        return sorted(os.listdir(str(folder)))
    return list(_listing(str(folder), time))


def _names_now(folder: str) -> list[str]:
    """List names like `_names`, but without cache; skip files that are being written."""
    try:
        if "://" in folder:
            names = [path.name for path in UPath(folder).iterdir()]
        else:
            names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [name for name in names if not name.startswith(".")]


def _is_local(path: UPath) -> bool:
    return path.protocol in ("", "file", "local")


def _settled(time: int | None) -> bool:
    """Whether a time is old enough that no second change has it (file times are coarse)."""
    return time is None or time_ns() - time > 1_000_000_000


def _changed(path: UPath) -> int | None:
    """Get the time of the last change in ns; None if the path does not exist; now if not local."""
    if not _is_local(path):
        return time_ns() if path.exists() else None
    return _time(str(path))


def _time(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


@lru_cache(maxsize=_KEPT)
def _listing(path: str, time: int) -> tuple[str, ...]:
    return tuple(sorted(os.listdir(path)))


@lru_cache(maxsize=_KEPT)
def _head(path: str, time: int) -> RunHead:
    return unseal(RunHead, _bytes(path), path, GONE)


@lru_cache(maxsize=_KEPT)
def _record(path: str) -> StageRecord:
    return unseal(StageRecord, _bytes(path), path, "delete this record and rerun the night")


@lru_cache(maxsize=4096)
def _manifest(path: str) -> Manifest:
    whole = unseal(Manifest, _bytes(path), path, RERUN)
    return whole.model_copy(update={"files": ()})  # thousands of entries that no page shows


@lru_cache(maxsize=_KEPT)
def _entries(path: str) -> tuple[LedgerEntry, ...]:
    return tuple(read_batch(_bytes(path), path))


@lru_cache(maxsize=2)
def _compacted(paths: tuple[str, ...]) -> dict[tuple[str, str], list[LedgerEntry]]:
    by_run: dict[tuple[str, str], list[LedgerEntry]] = {}
    for path in paths:
        for entry in read_compacted(_bytes(path), path):
            by_run.setdefault((entry.pipeline, entry.run_id), []).append(entry)
    return by_run


def _bytes(path: str) -> bytes:
    if "://" in path:
        return UPath(path).read_bytes()
    with open(path, "rb") as stream:
        return stream.read()
