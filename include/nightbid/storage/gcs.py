"""A workspace on Cloud Storage: writing objects, and bulk transfer.

Small records are read through UPath like local files, and their crc32c is verified too. All writes
and all bulk transfers use Google's own client: resumable uploads, crc32c of every object in both
directions, retries with jitter, and generation preconditions where writers may conflict.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage import transfer_manager
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.exceptions import RequestException
from upath import UPath

from nightbid.config.cloud import Cloud
from nightbid.config.settings import current_settings
from nightbid.errors import ConfigError, WorkspaceError

PATIENCE_SECONDS = 120.0
RETRY = DEFAULT_RETRY.with_timeout(PATIENCE_SECONDS)
"""Exponential backoff with jitter; on 408, 429, 5xx and broken connections."""
WORKERS = 8
WRONG = (
    exceptions.GoogleAPICallError,
    exceptions.RetryError,
    DataCorruption,
    InvalidResponse,
    GoogleAuthError,
    RequestException,
)
"""Exceptions of the client: refused requests, exhausted retries, and crc32c mismatches."""
MEETINGS = 20
"""Maximum compare-and-swap retries."""


def open_root(uri: str) -> UPath:
    """Open a gs:// address with the settings of this installation.

    Raises:
        ConfigError: The settings name no cloud.
    """
    _configure()
    return UPath(uri)


_reached: list[Cloud] = []


def reach(cloud: Cloud) -> None:
    """Use a cloud's settings in this process, since workers of jobs have none of their own."""
    if _reached != [cloud]:
        _reached[:] = [cloud]
        _configure()


def configure_reading() -> None:
    """Configure access to gs:// paths even if the settings name no cloud.

    Uses this machine's credentials, or none if `STORAGE_EMULATOR_HOST` names an emulator.
    """
    if _reached or current_settings().cloud:
        _configure()
        return
    options: dict[str, Any] = {"use_listings_cache": False}
    if endpoint := os.environ.get("STORAGE_EMULATOR_HOST"):
        options |= {"endpoint_url": endpoint, "token": "anon"}
    _register(options)


def _configure() -> None:
    """Configure how fsspec accesses all gs:// paths in this process."""
    cloud = _cloud()
    options: dict[str, Any] = {"project": cloud.project, "use_listings_cache": False}
    if cloud.storage_endpoint:
        options |= {"endpoint_url": cloud.storage_endpoint, "token": "anon"}
        # Beam's own client has no option for it.
        os.environ["STORAGE_EMULATOR_HOST"] = cloud.storage_endpoint
    _register(options)


def _register(options: dict[str, Any]) -> None:
    # Its other file system contacts a control service for every bucket, on a separate socket.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from nightbid.storage.gcs_filesystem import Files

    for protocol in ("gs", "gcs"):
        fsspec.config.conf[protocol] = options
        fsspec.register_implementation(protocol, Files, clobber=True)


def _cloud() -> Cloud:
    cloud = _reached[0] if _reached else current_settings().cloud
    if cloud is None:
        raise ConfigError(
            "a gs:// path needs cloud settings",
            where="settings",
            hint="set profile and the cloud block; see docs/cloud.md",
        )
    return cloud


def _client() -> storage.Client:
    cloud = _cloud()
    return _connected(os.getpid(), cloud.project, cloud.storage_endpoint)


@lru_cache(maxsize=4)
def _connected(process: int, project: str, endpoint: str | None) -> storage.Client:
    # One per process: a connection must not be shared across a fork.
    if endpoint is None:
        return storage.Client(project=project)
    return storage.Client(
        project=project,
        client_options={"api_endpoint": endpoint},
        use_auth_w_custom_endpoint=False,
    )


def _blob(path: UPath) -> storage.Blob:
    bucket, _, name = path.path.partition("/")
    return _client().bucket(bucket).blob(name)


@contextmanager
def _one_line(path: UPath | str) -> Iterator[None]:
    """Convert the cloud client's exceptions to one-line errors."""
    try:
        yield
    except WRONG as error:
        text = " ".join(str(getattr(error, "message", "") or error).split())[:200]
        raise WorkspaceError(
            f"{type(error).__name__}: {text}",
            where=str(path),
            hint="check bucket, network and the account's roles (docs/cloud.md); a rerun is safe",
        ) from error


def write(path: UPath, content: bytes) -> None:
    """Write an object atomically: readers see the old one or the new one."""
    with _one_line(path):
        _blob(path).upload_from_string(content, checksum="crc32c", retry=RETRY)


def create(path: UPath, content: bytes) -> None:
    """Create an object that must not exist yet, with generation 0 as the precondition.

    Raises:
        FileExistsError: Another process created it first.
    """
    blob = _blob(path)
    with _one_line(path):
        try:
            blob.upload_from_string(content, if_generation_match=0, checksum="crc32c", retry=RETRY)
        except exceptions.PreconditionFailed:
            # Our own first attempt may have succeeded with only its response lost.
            if blob.download_as_bytes(retry=RETRY) != content:
                raise FileExistsError(str(path)) from None


def replace(path: UPath, content: Callable[[], bytes]) -> None:
    """Write an object that other processes write too, with a precondition on its generation.

    If the object changes in the meantime, `content` is called again.

    Raises:
        WorkspaceError: Other processes changed it in each of `MEETINGS` attempts.
    """
    blob = _blob(path)
    with _one_line(path):
        for _ in range(MEETINGS):
            seen = blob.bucket.get_blob(blob.name, retry=RETRY)
            generation = seen.generation if seen else 0
            try:
                blob.upload_from_string(
                    content(), if_generation_match=generation, checksum="crc32c", retry=RETRY
                )
            except exceptions.PreconditionFailed:
                continue
            return
    raise WorkspaceError(
        f"{MEETINGS} other processes wrote it in between", where=str(path), hint="try again later"
    )


def upload_file(local: Path, path: UPath) -> None:
    """Write an object from a file, atomically."""
    with _one_line(path):
        _blob(path).upload_from_filename(str(local), checksum="crc32c", retry=RETRY)


def upload_folder(local: Path, remote: UPath, last: str) -> None:
    """Upload all files of a folder; `last` is created exclusively after all others.

    Raises:
        FileExistsError: Another writer created `last` first.
    """
    names = sorted(
        path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()
    )
    upload(local, [name for name in names if name != last], remote)
    create(remote / last, (local / last).read_bytes())


def upload(local: Path, names: Iterable[str], remote: UPath) -> None:
    """Upload files of a folder; each object appears atomically."""
    pairs = [(str(local / name), _blob(remote / name)) for name in names]
    with _one_line(remote):
        transfer_manager.upload_many(
            pairs,
            upload_kwargs={"checksum": "crc32c", "retry": RETRY},
            worker_type=transfer_manager.THREAD,
            max_workers=WORKERS,
            raise_exception=True,
        )


def download(remote: UPath, names: Iterable[str], local: Path) -> None:
    """Download files of a folder and verify the crc32c of each."""
    pairs = []
    for name in names:
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        pairs.append((_blob(remote / name), str(local / name)))
    with _one_line(remote):
        transfer_manager.download_many(
            pairs,
            download_kwargs={"checksum": "crc32c", "retry": RETRY},
            worker_type=transfer_manager.THREAD,
            max_workers=WORKERS,
            raise_exception=True,
        )


@dataclass(frozen=True)
class Generation:
    """A generation of an object; None: the current one."""

    path: UPath
    number: int | None = None

    @property
    def _blob(self) -> storage.Blob:
        bucket, _, name = self.path.path.partition("/")
        return _client().bucket(bucket).blob(name, generation=self.number)

    def size(self) -> int:
        """Size in bytes."""
        blob = self._blob
        with _one_line(self.path):
            blob.reload(retry=RETRY)
        return int(blob.size)

    def copy(self, local: Path) -> None:
        """Copy the object to a file and verify its crc32c."""
        with _one_line(self.path):
            self._blob.download_to_filename(str(local), retry=RETRY)

    def copy_range(self, start: int, stop: int, stream: BinaryIO) -> None:
        """Copy a range of bytes; ranges have no crc32c to verify."""
        if stop > start:
            with _one_line(self.path):
                self._blob.download_to_file(
                    stream, start=start, end=stop - 1, checksum=None, retry=RETRY
                )


def delete(path: UPath) -> None:
    """Delete an object if it exists."""
    with _one_line(path):
        try:
            _blob(path).delete(retry=RETRY)
        except exceptions.NotFound:
            return


def read_many(folder: UPath, suffix: str) -> dict[str, bytes]:
    """Read all objects directly below a folder that have a suffix: name → content."""
    bucket, _, prefix = folder.path.partition("/")
    prefix = prefix.rstrip("/") + "/"
    with _one_line(folder):
        listing = _client().list_blobs(bucket, prefix=prefix, delimiter="/", retry=RETRY)
        blobs = [blob for blob in listing if blob.name.endswith(suffix)]
        return {
            blob.name.removeprefix(prefix): content
            for blob, content in zip(blobs, _contents(blobs), strict=True)
            if content is not None
        }


def _contents(blobs: list[storage.Blob]) -> Iterator[bytes | None]:
    def read(blob: storage.Blob) -> bytes | None:
        try:
            return bytes(blob.download_as_bytes(retry=RETRY))
        except exceptions.NotFound:
            return None  # deleted after the listing

    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(read, blobs)
