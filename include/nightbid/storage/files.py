"""Files of the workspace, on this machine or in a bucket: read, written atomically, deleted."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath


def is_local(path: UPath | Path) -> bool:
    """Whether a path is on this machine."""
    return isinstance(path, Path) or path.protocol in ("", "file", "local")


@contextmanager
def local_file(path: UPath | Path) -> Iterator[Path]:
    """Yield a file as a local path; a remote one is downloaded and deleted afterwards."""
    if is_local(path):
        yield Path(str(path))
        return
    from nightbid.storage import gcs

    with tempfile.TemporaryDirectory() as folder:
        gcs.download(UPath(path).parent, [path.name], Path(folder))
        yield Path(folder) / path.name


@contextmanager
def replaced(path: UPath | Path) -> Iterator[Path]:
    """Yield a local path to write to; afterwards the file replaces `path` atomically."""
    parent = Path(str(path.parent)) if is_local(path) else Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        yield temporary
        if is_local(path):
            os.replace(temporary, str(path))
        else:
            from nightbid.storage import gcs

            gcs.upload_file(temporary, UPath(path))
    finally:
        temporary.unlink(missing_ok=True)


def download(folder: UPath, names: Iterable[str], to: Path) -> None:
    """Copy some files of a folder that is not a stage's output."""
    if not is_local(folder):
        from nightbid.storage import gcs

        gcs.download(folder, names, to)
        return
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(folder / name), to / name)


def read_all(folder: UPath, suffix: str) -> dict[str, bytes]:
    """Read the small files directly below a folder: name → content; empty without the folder."""
    if not is_local(folder):
        from nightbid.storage import gcs

        return gcs.read_many(folder, suffix)
    try:
        names = os.listdir(str(folder))
    except FileNotFoundError:
        return {}
    contents = {}
    for name in names:
        if name.endswith(suffix) and not name.startswith("."):
            try:
                contents[name] = (folder / name).read_bytes()
            except FileNotFoundError:
                continue  # deleted after the listing
    return contents


def remove(path: UPath) -> None:
    """Delete a file if it exists."""
    if is_local(path):
        path.unlink(missing_ok=True)
        return
    from nightbid.storage import gcs

    gcs.delete(path)


def write_atomically(path: UPath | Path, content: str | bytes) -> None:
    """Write a small file atomically, so that readers never see a partial one."""
    data = content.encode() if isinstance(content, str) else content
    if not is_local(path):
        from nightbid.storage import gcs

        gcs.write(UPath(path), data)
        return
    with replaced(path) as temporary:
        temporary.write_bytes(data)


def write_newest(path: UPath, content: Callable[[], str]) -> None:
    """Write a small file with the newest state, atomically.

    If several processes write at once, the newest state is written last.

    Args:
        path: File to write.
        content: Returns the newest state.
    """
    if not is_local(path):
        from nightbid.storage import gcs

        gcs.replace(path, lambda: content().encode())
        return
    text = ""
    while text != (text := content()):
        write_atomically(path, text)


def write_once(path: UPath, text: str) -> None:
    """Create a small file atomically, unless it exists.

    Raises:
        FileExistsError: Another process created it first.
    """
    if not is_local(path):
        from nightbid.storage import gcs

        gcs.create(path, text.encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(str(temporary), str(path))
    finally:
        temporary.unlink(missing_ok=True)


def write_next(folder: UPath, text: str) -> None:
    """Create the next file in a folder of numbered files, such as `000002.json`."""
    names = read_all(folder, ".json")
    number = max((int(name[:6]) for name in names if name[:6].isdigit()), default=0) + 1
    while True:
        try:
            write_once(folder / f"{number:06d}.json", text)
        except FileExistsError:
            number += 1
        else:
            return
