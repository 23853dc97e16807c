"""Lock files: parsing, differences between two locks, and mixes of both."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from nightbid.errors import ConfigError, ServiceError
from nightbid.processes import how_it_ended

PROGRAM = "nightbid"
"""Package name of Nightbid itself, which a lock may pin as a candidate version."""
_PACKAGES = ("-r", "--requirement", "-e", "--editable")
"""Options of a requirements file that add packages without pinning them here."""
_OF_THE_MACHINE = re.compile("os error|Failed to fetch|Request failed|network was disabled")
"""What `uv` says if the disk or the network fails, and not the versions."""
_VIA = re.compile(r"-r (\S+)")


@dataclass(frozen=True)
class PinChange:
    """A package that two locks pin differently."""

    name: str
    before: str
    """Pin in the present lock, `==4.6.0` or `@ URL`; empty: not pinned."""
    after: str
    """Pin in the candidate lock; empty: not pinned."""

    def __str__(self) -> str:
        return f"{self.name} {_short(self.before)} → {_short(self.after)}"


@dataclass(frozen=True)
class Lock:
    """Pins of all packages of an environment."""

    pins: Mapping[str, str]
    """Normalized name → `==1.2.3` or `@ URL`."""

    @classmethod
    def parse(cls, text: str, where: str) -> Lock:
        """Read the text of a lock file, as `uv pip compile` or `pip freeze` writes it.

        Raises:
            ConfigError: A line is not a requirement, pins no version, or repeats a package.
        """
        pins: dict[str, str] = {}
        for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
            stripped = re.split(r"(?:^|\s)#|\s--hash", line)[0].strip()
            place = f"{where}:{number}"
            if stripped.startswith(_PACKAGES):
                raise ConfigError(
                    f"{stripped!r} adds packages that this file does not pin",
                    where=place,
                    hint="pass one complete lock file; `uv pip compile` writes one",
                )
            if not stripped or stripped.startswith("--"):
                continue
            name, pin = _pin(stripped, place)
            if name is None:
                continue
            if pins.get(name, pin) != pin:
                raise ConfigError(
                    f"{name} is pinned twice: {pins[name]} and {pin}",
                    where=place,
                    hint="keep one of the lines",
                )
            pins[name] = pin
        if not pins:
            raise ConfigError(
                "it pins no package",
                where=where,
                hint="pass a lock file: `uv pip compile` writes one",
            )
        return cls(pins)

    @classmethod
    def read(cls, path: Path) -> Lock:
        """Read a lock file.

        Raises:
            ConfigError: The file cannot be read, or see `parse`.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8-sig"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read the lock file ({type(error).__name__})",
                where=str(path),
                hint="pass a file of pinned requirements, one name==version per line",
            ) from error

    def text(self) -> str:
        """Get the text of the lock as a sorted requirements file."""
        return "".join(
            f"{name} {pin}\n" if pin.startswith("@") else f"{name}{pin}\n"
            for name, pin in sorted(self.pins.items())
        )

    @property
    def digest(self) -> str:
        """Compute the digest of the pins, the bytes of local wheels and this Python's version."""
        hashed = hashlib.sha256(f"{sys.version_info[:3]}\n{self.text()}".encode())
        for pin in sorted(self.pins.values()):
            if pin.startswith("@ file://"):
                path = Path(pin.removeprefix("@ file://"))
                hashed.update(path.read_bytes() if path.is_file() else b"")
        return hashed.hexdigest()[:16]

    def changes(self, candidate: Lock) -> tuple[PinChange, ...]:
        """List the packages that the candidate pins differently, sorted by name."""
        names = sorted({*self.pins, *candidate.pins})
        changes = (
            PinChange(name, self.pins.get(name, ""), candidate.pins.get(name, "")) for name in names
        )
        return tuple(change for change in changes if change.before != change.after)

    def with_changes(self, changes: Iterable[PinChange]) -> Lock:
        """Get a lock with the candidate's pins for some packages and this lock's for the others."""
        pins = dict(self.pins)
        for change in changes:
            if change.after:
                pins[change.name] = change.after
            else:
                pins.pop(change.name, None)
        return Lock(pins)

    def not_installed(self) -> list[str]:
        """List pins that the running environment lacks, as `name==1.2 (installed: 1.3)`."""
        missing = []
        for name, pin in self.pins.items():
            if not pin.startswith("=="):
                missing.append(f"{name} {pin}")
                continue
            try:
                installed = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                installed = "nothing"
            if installed != pin[2:]:
                missing.append(f"{name}{pin} (installed: {installed})")
        return missing


def _pin(line: str, place: str) -> tuple[str | None, str]:
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise ConfigError(
            f"{line!r} is not a pinned requirement",
            where=place,
            hint="write name==version, or name @ file:///path/to/package.whl",
        ) from error
    if requirement.marker is not None and not requirement.marker.evaluate():
        return None, ""
    if requirement.url:
        return canonicalize_name(requirement.name), f"@ {requirement.url}"
    pins = [specifier for specifier in requirement.specifier if specifier.operator == "=="]
    if len(pins) != 1 or len(requirement.specifier) != 1 or "*" in pins[0].version:
        raise ConfigError(
            f"{line!r} pins no version",
            where=place,
            hint="write name==version for every package; `uv pip compile` does",
        )
    return canonicalize_name(requirement.name), f"=={pins[0].version}"


def _short(pin: str) -> str:
    if pin.startswith("@"):
        return pin.rsplit("/", 1)[-1]
    return pin.removeprefix("==") or "not installed"


def resolve(upgrades: Sequence[str], source: Path, lock: Path, folder: Path, uv: Path) -> Lock:
    """Resolve a lock with other versions of some packages; others change only if necessary.

    Args:
        upgrades: Pins, `name==version` or `name @ URL`; empty: the newest versions that `source`
            allows, of all packages.
        source: Path of the `requirements.in` from which the present lock was resolved.
        lock: Path of the present lock.
        folder: Folder to resolve in.
        uv: Path of the program `uv`.

    Raises:
        ConfigError: An upgrade is not a pin, or no set of versions satisfies all requirements.
    """
    requested: dict[str, str] = {}
    for upgrade in upgrades:
        name, pin = _pin(upgrade, "--upgrade")
        requested[name or upgrade] = pin
    lines = []
    for line in source.read_text(encoding="utf-8").splitlines():
        name = _name_of(line)
        if name in requested and not requested[name].startswith("@"):
            extras = "".join(re.findall(r"\[[^]]*\]", line.split("#")[0]))
            lines.append(f"{name}{extras}{requested.pop(name)}")
        elif name not in requested:
            lines.append(line)
    # A package that is installed from a file has no version for the resolver to find.
    direct = {name: pin for name, pin in requested.items() if pin.startswith("@")}
    lines += [f"{name}{pin}" for name, pin in requested.items() if name not in direct]
    folder.mkdir(parents=True, exist_ok=True)
    request, output = folder / "requirements.in", folder / "requirements.txt"
    request.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # uv keeps the versions in its existing output file if they still satisfy the requirements.
    output.write_text(lock.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - our own arguments
        [str(uv), "pip", "compile", "--quiet", "--python-version", "3.11", str(request),
         "-o", str(output), *([] if upgrades else ["--upgrade"])],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise_if_interrupted(done, str(source))
        raise ConfigError(
            f"no set of versions satisfies all requirements: {' '.join(done.stderr.split())[:600]}",
            where="--upgrade " + ", ".join(upgrades) if upgrades else str(source),
            hint="upgrade the packages that it names too, or choose another version",
        )
    resolved = Lock.read(output)
    return Lock({**resolved.pins, **direct})


def raise_if_interrupted(done: subprocess.CompletedProcess[str], where: str) -> None:
    """Raise an error if the machine or the network has failed, and not the versions.

    Args:
        done: A failed `uv`.
        where: What it worked on.

    Raises:
        ServiceError: It was killed, the disk is full, or the package index does not answer.
    """
    is_killed = done.returncode < 0
    if is_killed or _OF_THE_MACHINE.search(done.stderr):
        why = f"uv {how_it_ended(done.returncode)}" if is_killed else " ".join(done.stderr.split())
        raise ServiceError(
            f"cannot install packages: {why[-500:]}",
            where=where,
            hint="check disk space and the package index, then run the same command: it resumes",
        )


def check_lock(source: Path, lock: Path) -> list[str]:
    """List where a lock contradicts the file that it was resolved from, without network access.

    Returns:
        One line per fault; empty if the lock matches.
    """
    text = lock.read_text(encoding="utf-8")
    pins = Lock.parse(text, str(lock)).pins
    requirements: dict[str, Requirement] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        stripped = line.split("#")[0].strip()
        if stripped and not stripped.startswith("-"):
            parsed = Requirement(stripped)
            requirements[canonicalize_name(parsed.name)] = parsed
    faults = []
    for name, requirement in requirements.items():
        if name not in pins:
            faults.append(f"{source.name} requires {name}, which {lock.name} does not pin")
        elif pins[name].startswith("==") and not requirement.specifier.contains(
            pins[name][2:], prereleases=True
        ):
            faults.append(
                f"{source.name} requires {requirement}, {lock.name} pins {name}{pins[name]}"
            )
    for name in sorted(_direct(text, source.name) - set(requirements)):
        faults.append(f"{lock.name} pins {name} for {source.name}, which does not require it")
    return faults


def _direct(text: str, source: str) -> set[str]:
    """Get the packages that a lock pins because the `.in` file requires them, by its comments."""
    names: set[str] = set()
    name = ""
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            name = _name_of(line) or ""
        elif name and any(file.rsplit("/", 1)[-1] == source for file in _VIA.findall(line)):
            names.add(name)
    return names


def _name_of(line: str) -> str | None:
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
    return canonicalize_name(match[1]) if match else None
