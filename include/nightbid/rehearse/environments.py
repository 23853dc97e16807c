"""Virtual environments built from locks, stored by the digest of the lock.

Files are hard links to those of the running environment or of `uv`'s cache, so an environment that
shares most of its packages with another one takes seconds to build and little disk space.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

import nightbid
from nightbid.errors import ConfigError, StageError
from nightbid.rehearse.locks import PROGRAM, Lock, raise_if_interrupted

KEPT = 12
"""Number of environments that are kept; beyond that, the least recently used are deleted."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Environment:
    """A Python environment with the packages of one lock."""

    python: Path
    lock: Lock
    digest: str

    def run(self, arguments: list[str], environment: dict[str, str], log: Path) -> int:
        """Run this Python, and append its output to a file.

        Returns:
            Exit code of the process.
        """
        with log.open("a", encoding="utf-8") as output:
            return subprocess.run(  # noqa: S603 - our own arguments
                [str(self.python), *arguments],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            ).returncode


def find_uv() -> Path:
    """Find `uv`: the one that `make install` installed with this Python, or the one on the PATH.

    Raises:
        ConfigError: `uv` is not installed.
    """
    installed = Path(sys.executable).with_name("uv")
    path = str(installed) if installed.exists() else shutil.which("uv")
    if path is None:
        raise ConfigError(
            "uv is not installed; it creates the environments",
            where=sys.prefix,
            hint="run `make install`, or `pip install uv`",
        )
    return Path(path)


def source_folder() -> Path:
    """Get the folder that the running Nightbid is imported from."""
    return Path(nightbid.__file__).resolve().parents[1]


class Environments:
    """Builds and stores environments in one folder.

    Args:
        folder: Folder in the cache; safe to delete while no rehearsal runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def present(self, lock: Lock) -> Environment:
        """Get the running environment if it has all pins of the lock, else build one from it."""
        if PROGRAM not in lock.pins and not (missing := lock.not_installed()):
            return Environment(Path(sys.executable), lock, f"running-{lock.digest}")
        if PROGRAM not in lock.pins:
            LOG.info("the running environment differs from the lock (%s)", ", ".join(missing[:3]))
        return self.make(lock)

    def make(self, lock: Lock) -> Environment:
        """Build the environment of a lock, or reuse an existing one.

        If two processes need the same environment, one waits for the other.

        Raises:
            StageError: A package cannot be installed.
            ServiceError: The disk or the package index failed.
        """
        final = self._folder / lock.digest
        python = final / "bin" / "python"
        with self._alone(lock.digest):
            if not (final / "made").exists():
                self._install(lock, final)
            os.utime(final / "made")
        self._delete_old(final)
        return Environment(python, lock, lock.digest)

    def _install(self, lock: Lock, final: Path) -> None:
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        uv = str(find_uv())
        requirements = self._folder / f"{lock.digest}.txt"
        requirements.write_text(lock.text(), encoding="utf-8")
        try:
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(final)], lock)
            (packages,) = final.glob("lib/python*/site-packages")
            _link_present(packages, lock)
            # The lock is complete: install its pins without resolving dependencies, and remove
            # all other packages.
            _run([uv, "pip", "sync", "--quiet", "--python", str(final / "bin" / "python"),
                  str(requirements)], lock)  # fmt: skip
        except BaseException:
            shutil.rmtree(final, ignore_errors=True)
            raise
        (final / "made").touch()

    def _delete_old(self, current: Path) -> None:
        markers = [marker for marker in self._folder.glob("*/made") if marker.parent != current]
        markers.sort(key=lambda marker: marker.stat().st_mtime, reverse=True)
        for marker in markers[KEPT - 1 :]:
            with self._alone(marker.parent.name, wait=False) as free:
                if free:
                    shutil.rmtree(marker.parent, ignore_errors=True)

    @contextmanager
    def _alone(self, digest: str, *, wait: bool = True) -> Iterator[bool]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{digest}.lock").open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True


def _link_present(packages: Path, lock: Lock) -> None:
    """Link the packages that the lock keeps, with compiled files; `uv` changes the rest.

    If hard links between the two folders are impossible, nothing is copied and `uv` installs all
    packages.
    """
    present = Path(sysconfig.get_paths()["purelib"])
    if not present.is_relative_to(sys.prefix):
        return
    installed = {path.name for path in packages.iterdir()}
    others = installed | _of_others(present, lock)
    paths = [str(path) for path in sorted(present.iterdir()) if path.name not in others]
    done = subprocess.run(  # noqa: S603 - our own arguments
        ["/bin/cp", "-al", *paths, str(packages)], capture_output=True
    )
    if done.returncode:
        for path in packages.iterdir():
            if path.name not in installed:
                shutil.rmtree(path, ignore_errors=True)


def _of_others(present: Path, lock: Lock) -> set[str]:
    """Names in a folder of packages that belong only to packages which the lock does not keep.

    A package that shares a folder, such as `google`, with one that it keeps is not among them:
    only `uv` can tell their files apart.
    """
    kept, others = set[str](), list[set[str]]()
    for record in present.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines()
        names = {line.partition(",")[0].partition("/")[0] for line in lines}
        names = names - {"..", "__pycache__"} | {record.parent.name}
        name, _, version = record.parent.name.removesuffix(".dist-info").rpartition("-")
        if _pins(lock, name, version):
            kept |= names
        else:
            others.append(names)
    while shared := [names for names in others if names & kept]:
        kept.update(*shared)
        others = [names for names in others if names not in shared]
    return set[str]().union(*others)


def _pins(lock: Lock, name: str, version: str) -> bool:
    pin = lock.pins.get(canonicalize_name(name), "")
    try:
        return pin.startswith("==") and Version(pin[2:]) == Version(version)
    except InvalidVersion:
        return False


def _run(command: list[str], lock: Lock) -> None:
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - our own arguments
    if done.returncode:
        raise_if_interrupted(done, f"environment {lock.digest}")
        raise StageError(
            f"cannot install it: {' '.join(done.stderr.split())[-500:]}",
            where=f"environment {lock.digest}",
            hint="check the versions of the candidate lock and the package index, then run again",
        )
