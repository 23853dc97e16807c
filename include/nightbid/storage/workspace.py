"""The workspace: everything that Nightbid reads or writes is below one root URI.

No other module needs to know whether that is a local folder or a bucket. In a bucket a folder
cannot be renamed, so an output's manifest is uploaded last and exists only if all its files do. A
stage that needs the files downloads them to the local cache. Layout::

    data/<source digest>/dt=YYYY-MM-DD/…        raw daily partitions that a source had to make
    days/<kind>/<day>/<key>/…                   outputs of one day, shared by pipelines
    stages/<pipeline>/<stage>/<key>/…           immutable outputs, manifest.json written last
    runs/<pipeline>/<run id>/…                  one small record per run and stage
    checkpoints/<pipeline>/<stage>/<key>/…      what a killed training resumes from
    champion/<pipeline>/champion.json, history/ the pointer and its history; pauses/ its pauses
    turns/<pipeline>/begun/, waiting/           which night of a pipeline is running
    datasets/<name>/…                           frozen rows
    erasures/…                                  records of data removed at users' request
    ledger/…                                    append-only cost records
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from upath import UPath

from nightbid.config.settings import current_settings
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.manifest import FileEntry, Manifest
from nightbid.night.sealed import seal, unseal
from nightbid.storage.files import is_local
from nightbid.storage.verify import faults_of, file_digest, strangers, verify

CHECKPOINT_DAYS = 7
RERUN = "rerun the night that made it: damaged outputs are set aside and made again"


class Workspace:
    """A root URI, and the layout below it."""

    def __init__(self, root: str | UPath) -> None:
        text = str(root)
        if text.startswith("gs://"):
            from nightbid.storage import gcs

            self.root = gcs.open_root(text.rstrip("/"))
        else:
            self.root = UPath(root) if "://" in text else UPath(Path(text).expanduser().resolve())

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @property
    def is_local(self) -> bool:
        """Whether the root is a local folder."""
        return is_local(self.root)

    def stage_folder(self, pipeline: str, stage: str, key: str) -> UPath:
        """Folder of the output with this key, whether or not it exists."""
        return self.root / "stages" / pipeline / stage / key

    def run_folder(self, pipeline: str, run_id: str) -> UPath:
        """Folder of the records of one run."""
        return self.root / "runs" / pipeline / run_id

    def champion_folder(self, pipeline: str) -> UPath:
        """Folder of the champion pointer of one pipeline."""
        return self.root / "champion" / pipeline

    def checkpoint_folder(self, pipeline: str, stage: str, key: str) -> UPath:
        """Local folder for the state of an unfinished output with this key."""
        folder = self.root / "checkpoints" / pipeline / stage / key
        return folder if self.is_local else UPath(_local_copy(folder))

    def delete_old_checkpoints(self, current: UPath) -> None:
        """Delete this stage's checkpoints older than 7 days."""
        if not current.parent.exists():
            return
        old = time.time() - CHECKPOINT_DAYS * 86_400
        for checkpoint in current.parent.iterdir():
            if checkpoint.name != current.name and checkpoint.stat().st_mtime < old:
                self.discard(checkpoint)

    def uri(self, path: UPath) -> str:
        """Address of a path relative to the root, as in manifests and XComs."""
        return str(path).removeprefix(str(self.root)).lstrip("/")

    def at(self, uri: str) -> UPath:
        """Path of an address.

        Raises:
            WorkspaceError: The address is outside the workspace.
        """
        if uri.startswith("/") or ".." in Path(uri).parts:
            raise WorkspaceError(
                f"the address {uri!r} leaves the workspace",
                where=str(self.root),
                hint="use an address relative to the workspace root",
            )
        return self.root / uri

    def scratch(self, final: UPath) -> UPath:
        """Create an empty local folder, to be committed as `final` or discarded."""
        parent = final.parent if is_local(final) else UPath(_local_copy(final).parent)
        folder = parent / f".tmp-{final.name[:16]}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        return folder

    def commit(
        self, scratch: UPath, final: UPath, last: str = "manifest.json", *, is_whole: bool = True
    ) -> None:
        """Make a finished scratch folder visible under its final name, atomically.

        If another attempt committed the same output first, this one is discarded: both are the
        output of the same key.

        Args:
            scratch: The scratch folder.
            final: The final path.
            last: Name of the file without which the folder does not count as finished.
            is_whole: Whether all files are in the scratch folder, and none already at the final
                path.
        """
        if is_local(final):
            self._move(scratch, final, last)
            return
        from nightbid.storage import gcs

        try:
            gcs.upload_folder(Path(str(scratch)), final, last)
        except FileExistsError:
            self.discard(scratch)
        else:
            if is_whole:
                self._move(scratch, UPath(_local_copy(final)), last)
            else:
                self.discard(scratch)

    def _move(self, scratch: UPath, final: UPath, last: str) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(str(scratch), str(final))
        except OSError:
            if not (final / last).exists():
                if not final.exists():
                    raise
                # A commit always includes the last file, so the folder comes from something else.
                set_aside(final)
                os.rename(str(scratch), str(final))
                return
            self.discard(scratch)

    def discard(self, folder: UPath) -> None:
        """Delete a scratch folder."""
        shutil.rmtree(str(folder), ignore_errors=True)


def _local_copy(folder: UPath) -> Path:
    """Local folder for the files of a remote folder, whether or not it exists."""
    return current_settings().cache / "outputs" / folder.path


def fetch(folder: UPath, prefixes: tuple[str, ...] = (), manifest: Manifest | None = None) -> Path:
    """Return a finished output as a local folder of verified files.

    Remote outputs are downloaded at most once. Each call verifies that no file has changed.

    Args:
        folder: Folder of the output.
        prefixes: Prefixes of the files that are needed; empty: all files.
        manifest: Manifest of the output if already known; None: it is read.

    Raises:
        WorkspaceError: There is no output.
        CorruptDataError: A file is missing, or differs from the manifest.
    """
    if is_local(folder):
        path = Path(str(folder))
        _verify(path, manifest or read_manifest(folder), prefixes)
        return path
    local = _local_copy(folder)
    if (local / "manifest.json").exists():
        try:
            _verify(local, manifest or read_manifest(UPath(local)), prefixes)
        except CorruptDataError:
            set_aside(UPath(local))
        else:
            return local
    manifest = manifest or read_manifest(folder)
    temporary = local.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        if prefixes:
            part = local.with_name(f"{local.name}.part")
            files = [entry for entry in manifest.files if entry.path.startswith(prefixes)]
            missing = [entry for entry in files if faults_of(part, [entry])]
            _download(folder, missing, temporary)
            for entry in missing:
                (part / entry.path).parent.mkdir(parents=True, exist_ok=True)
                (temporary / entry.path).replace(part / entry.path)
            return part
        _download(folder, manifest.files, temporary)
        (temporary / "manifest.json").write_text(seal(manifest))
        try:
            temporary.rename(local)
        except OSError:
            if not (local / "manifest.json").exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return local


def read_manifest(folder: UPath) -> Manifest:
    """Read the manifest of a finished output.

    Raises:
        WorkspaceError: There is no output.
        CorruptDataError: The manifest is damaged.
    """
    path = folder / "manifest.json"
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WorkspaceError(
            f"no stage output at {str(folder)!r}",
            hint="it was deleted: rerun the night that made it",
        ) from error
    return unseal(Manifest, text, path, RERUN)


def inode_of(folder: UPath) -> int:
    """Inode of a local folder; 0 if it does not exist or is remote."""
    try:
        return os.stat(str(folder)).st_ino if is_local(folder) else 0
    except FileNotFoundError:
        return 0


def set_aside(folder: UPath, inode: int = 0) -> str:
    """Rename a damaged local output, which keeps it for inspection and prevents its use.

    Args:
        folder: Folder of the output.
        inode: Inode of the damaged folder; 0: not checked. A newer output that another process has
            written in its place is kept.

    Returns:
        The new name; empty if another process has already renamed it.
    """
    name = f".damaged-{folder.name[:16]}-{uuid.uuid4().hex[:8]}"
    damaged = folder.parent / name
    try:
        os.rename(str(folder), str(damaged))
    except FileNotFoundError:
        return ""
    if inode and inode_of(damaged) != inode:
        try:
            os.rename(str(damaged), str(folder))
        except OSError:  # a new output took its place
            return name
        return ""
    return name


def _verify(folder: Path, manifest: Manifest, prefixes: tuple[str, ...]) -> None:
    files = [entry for entry in manifest.files if entry.path.startswith(prefixes or "")]
    verify(folder, files, str(folder), RERUN)
    if manifest.files and not prefixes and (extra := strangers(folder, manifest.files)):
        raise CorruptDataError(extra[0], where=str(folder), hint=RERUN)


def _download(folder: UPath, files: Sequence[FileEntry], to: Path) -> None:
    from nightbid.storage import gcs

    gcs.download(folder, [entry.path for entry in files], to)
    for entry in files:
        if entry.digest and file_digest(to / entry.path) != entry.digest:
            raise WorkspaceError(
                f"{entry.path} is not the file that the manifest names",
                where=str(folder),
                hint="delete this output and rerun the night that made it",
            )
