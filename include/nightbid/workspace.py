"""Everything that Nightbid reads or writes lies below one root URI.

Nothing else knows whether that is a local folder or a bucket. Layout::

    data/<source digest>/dt=YYYY-MM-DD/…        raw daily partitions that a source had to make
    stages/<pipeline>/<stage>/<key>/…           immutable outputs, manifest.json written last
    runs/<pipeline>/<run id>/…                  one small record per run and stage
    checkpoints/<pipeline>/<stage>/<key>/…      what a killed training goes on from
    champion/<pipeline>/champion.json, history/ the pointer and its history
    ledger/…                                    append-only cost records
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from pathlib import Path

from upath import UPath

from nightbid.errors import WorkspaceError

CHECKPOINT_DAYS = 7


class Workspace:
    """A root URI and the addresses below it."""

    def __init__(self, root: str | UPath) -> None:
        text = str(root)
        self.root = UPath(root) if "://" in text else UPath(Path(text).expanduser().resolve())

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return self.root.protocol in ("", "file", "local")

    def stage_folder(self, pipeline: str, stage: str, key: str) -> UPath:
        """Where the output with this key lies, or would lie."""
        return self.root / "stages" / pipeline / stage / key

    def run_folder(self, pipeline: str, run_id: str) -> UPath:
        """Where the records of one run lie."""
        return self.root / "runs" / pipeline / run_id

    def champion_folder(self, pipeline: str) -> UPath:
        """Where the champion pointer of one pipeline lies."""
        return self.root / "champion" / pipeline

    def checkpoint_folder(self, pipeline: str, stage: str, key: str) -> UPath:
        """Where an unfinished output with this key keeps its state."""
        return self.root / "checkpoints" / pipeline / stage / key

    def forget_checkpoints(self, mine: UPath) -> None:
        """Remove what nobody came back for within a week, of the same stage."""
        if not mine.parent.exists():
            return
        old = time.time() - CHECKPOINT_DAYS * 86_400
        for each in mine.parent.iterdir():
            if each.name != mine.name and each.stat().st_mtime < old:
                self.discard(each)

    def uri(self, path: UPath) -> str:
        """The address of a path, relative to the root: what manifests and XComs carry."""
        return str(path).removeprefix(str(self.root)).lstrip("/")

    def at(self, uri: str) -> UPath:
        """The path that `uri` names.

        Raises:
            WorkspaceError: the address leaves the workspace.
        """
        if uri.startswith("/") or ".." in Path(uri).parts:
            raise WorkspaceError(
                f"the address {uri!r} leaves the workspace",
                where=str(self.root),
                hint="use an address relative to the workspace root",
            )
        return self.root / uri

    def scratch(self, final: UPath) -> UPath:
        """A new empty folder beside `final`, to be committed or thrown away."""
        folder = final.parent / f".tmp-{final.name[:16]}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        return folder

    def commit(self, scratch: UPath, final: UPath) -> None:
        """Make a finished scratch folder visible under its final name, in one step.

        If another attempt committed the same output first, ours is thrown away: both are the
        output of the same key.
        """
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(str(scratch), str(final))
        except OSError:
            if not (final / "manifest.json").exists():
                raise
            self.discard(scratch)

    def discard(self, folder: UPath) -> None:
        """Remove a scratch folder."""
        shutil.rmtree(str(folder), ignore_errors=True)


def write_atomically(path: UPath, text: str) -> None:
    """Write a small file beside and rename it, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    beside.write_text(text, encoding="utf-8")
    os.replace(str(beside), str(path))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file of this machine beside and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    beside.write_bytes(content)
    os.replace(beside, path)


def write_once(path: UPath, text: str) -> None:
    """Write a small file in one step, unless it is there already.

    Raises:
        FileExistsError: somebody else wrote it first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    beside.write_text(text, encoding="utf-8")
    try:
        os.link(str(beside), str(path))
    finally:
        os.unlink(str(beside))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
