"""Assigns the files of a folder to days by the names of folders and files.

A day is named by a folder `dt=2026-01-05` (also `date=`, `day=`, `ds=`), by
`year=2026/month=1/day=5`, by `2026/01/05`, by a folder `2026-01-05`, or by a file with the day in
its name; `20260105`, `2026_01_05` and `2026.01.05` are the same day. An hour may follow the day
(`dt=2026-01-05/hour=03`, `2026/01/05/03`, `dt=2026-01-05-03`, `2026010503`); its files belong to
that day. Symbolic links are followed.
Other names, such as weeks and months, are ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from urllib.parse import unquote

from nightbid.data.text_files import HEAD_BYTES, first_bytes
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.partitions import HourPartition, Unit, containing
from nightbid.shortages import remedy

_MARK = r"[-_.]?"
_HOUR = r"(?:[-_T]?([01]\d|2[0-3]))?"
PARTITION = re.compile(
    rf"(?:^|/)(?:dt|date|day|ds|hour|dh)=(\d{{4}}){_MARK}(\d{{2}}){_MARK}(\d{{2}}){_HOUR}(?:/|$)"
)
HIVE = re.compile(r"(?:^|/)(?:year|y)=(\d{4})/(?:month|m)=(\d{1,2})/(?:day|d)=(\d{1,2})(?:/|$)")
NESTED = re.compile(r"(?:^|/)(\d{4})/(\d{2})/(\d{2})(?:/|$)")
FOLDER = re.compile(rf"(?:^|/)(20\d{{2}}){_MARK}(\d{{2}}){_MARK}(\d{{2}}){_HOUR}(?:/|$)")
IN_NAME = re.compile(rf"(?<!\d)(20\d{{2}}){_MARK}(\d{{2}}){_MARK}(\d{{2}}){_HOUR}(?!\d)")
HOUR_BELOW = re.compile(r"^/?(?:(?:hour|hr|h|hh)=)?([01]?\d|2[0-3])(?:/|$)")
"""Matches an hour folder below a day's folder."""
WEEK = re.compile(r"(?:^|[/=_.-])(20\d{2})-?W(\d{2})(?=$|[/_.-])")
PACKED = (".gz", ".bz2", ".zst")
SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": tuple(f".{kind}{packed}" for kind in ("csv", "tsv", "txt") for packed in ("", *PACKED)),
    "jsonl": tuple(
        f".{kind}{packed}" for kind in ("jsonl", "ndjson", "json") for packed in ("", *PACKED)
    ),
    "orc": (".orc",),
    "avro": (".avro",),
}
SPELLED = (
    "dt=2026-01-05, year=2026/month=1/day=5, 2026/01/05 or 2026-01-05, or a file with the day in"
    " its name; hours below a day are read as the day, unless source.partition is hour; weeks need"
    " source.partition: week; months are not supported: split them into days"
)
CALENDAR = frozenset(
    (
        "dt",
        "date",
        "day",
        "ds",
        "hour",
        "dh",
        "hr",
        "minute",
        "year",
        "y",
        "month",
        "m",
        "d",
        "week",
    )
)
"""Partition names that state a time, not a value."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_MAGIC = {b"PAR1": "parquet", b"ORC": "orc", b"Obj\x01": "avro", b"{": "jsonl"}
"""First bytes of a file → its format; files with other first bytes are CSV."""


@dataclass
class DayFiles:
    """The files of a folder, grouped by day."""

    files: dict[date, list[Path]] = field(default_factory=dict)
    """Files of the requested format, sorted by name."""
    others: dict[date, list[str]] = field(default_factory=dict)
    """Names of other files in folders of days; a day that appears only here is empty."""


def partitions_of(path: Path, root: Path) -> dict[str, str | None]:
    """Read column values from a file's partition folders, in Hive's notation (`country=DE`).

    Args:
        path: The file.
        root: Folder of the logs.
    """
    if not path.is_relative_to(root):
        return {}
    named = [folder.partition("=") for folder in path.relative_to(root).parts[:-1]]
    values = {name: unquote(value) for name, mark, value in named if mark and name}
    return {
        name: None if value == NO_VALUE else value
        for name, value in values.items()
        if name.lower() not in CALENDAR
    }


@dataclass(frozen=True)
class PartitionNames:
    """How to read a partition from the names of folders and files."""

    unit: Unit = "day"
    week_begins: str = "monday"

    def partition(self, relative: str) -> tuple[date | None, str | None]:
        """Read the partition of a file, or of a folder (with a slash at the end).

        Returns:
            The partition's day (None if the names state none), and the text of a partition folder
            that is no date of the calendar (else None), as `day_of_folder` returns them.

        Raises:
            CorruptDataError: Partitions are hours and a file name states none.
        """
        folder, _, name = relative.rpartition("/")
        if self.unit == "week" and (week := self._week(relative)):
            return week, None
        day, text = day_of_folder(folder)
        if day is None and not text:
            day = _first_day(IN_NAME.finditer(name))
        if day is None or self.unit == "day":
            return day, text
        if self.unit == "week":
            return containing(day, self.unit, self.week_begins), text
        hour = _hour_of(folder, name)
        if hour is None and not name:
            return None, None
        if hour is None:
            raise CorruptDataError(
                f"{relative!r} is not an hour of {day}",
                where="source.partition: hour",
                hint="name hours as dt=2026-01-05/hour=03 or 2026010503, or remove partition",
            )
        return HourPartition.of(day, hour), text

    def _week(self, relative: str) -> date | None:
        match = WEEK.search(relative)
        if not match:
            return None
        try:
            monday = date.fromisocalendar(int(match[1]), int(match[2]), 1)
        except ValueError:
            return None
        return containing(monday, self.unit, self.week_begins)


def _hour_of(folder: str, name: str) -> int | None:
    """Read the hour that follows the day in a name, or that a folder below the day states."""
    for text, patterns in ((folder, (PARTITION, FOLDER, HIVE, NESTED)), (name, (IN_NAME,))):
        for pattern in patterns:
            for match in pattern.finditer(text):
                if len(match.groups()) > 3 and match[4]:
                    return int(match[4])
                below = HOUR_BELOW.match(text[match.end() :])
                if text is folder and below:
                    return int(below[1])
    return None


def scan(
    files: Iterable[tuple[Path, str]],
    kind: str,
    head: Callable[[Path], bytes] | None = None,
    named: PartitionNames | None = None,
) -> DayFiles:
    """Find the files of each partition.

    Args:
        files: Paths and relative names, as `walk` yields them.
        kind: Format to find, a key of `SUFFIXES`; see `is_format`.
        head: Reads the first bytes of a file; None: from the local file.
        named: How names are read; None: as days.

    Raises:
        CorruptDataError: A folder with files is named like a day that does not exist.
    """
    day_files, named = DayFiles(), named or PartitionNames()
    for path, relative in sorted(files, key=lambda pair: pair[1]):
        folder, _, name = relative.rpartition("/")
        day, text = named.partition(relative)
        if not name:
            if day:
                day_files.others.setdefault(day, [])
            continue
        if text and not day:
            raise CorruptDataError(
                f"{text!r} is not a day", where=str(path), hint="name days as YYYY-MM-DD"
            )
        in_folder = day_of_folder(folder)[0] is not None
        if day is None:
            continue
        if is_format(path, kind, head):
            day_files.files.setdefault(day, []).append(path)
        elif in_folder:
            day_files.others.setdefault(day, []).append(name)
    day_files.files = dict(sorted(day_files.files.items()))
    return day_files


def walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield files, and folders with a trailing slash; links are followed, each folder once.

    Raises:
        WorkspaceError: A folder cannot be listed, so days or rows would seem to be missing.
    """
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in visited else [n for n in folders if not n.startswith((".", "_"))]
        if real in visited:
            continue
        visited.add(real)
        relative = Path(folder).relative_to(root).as_posix()
        inside = "" if relative == "." else f"{relative}/"
        if inside:
            yield Path(folder), inside
        for name in names:
            path = Path(folder) / name
            if not name.startswith((".", "_")) and path.is_file():
                yield path, inside + name


def _refuse(error: OSError) -> None:
    """Raise an error for a folder that cannot be listed, unless a user needs no access to it."""
    folder = Path(error.filename)
    if isinstance(error, FileNotFoundError) or folder.name == "lost+found":
        return  # deleted during the listing; the file system's own
    raise WorkspaceError(
        f"the folder cannot be listed ({error.strerror})",
        where=str(folder),
        hint=remedy(error) or "check its disk",
    ) from error


def day_of_folder(folder: str) -> tuple[date | None, str | None]:
    """Read the day of a folder's path, relative to the root.

    Returns:
        The day, or None; and the text of a partition that is no date of the calendar, or None.
    """
    for pattern in (PARTITION, HIVE, NESTED, FOLDER):
        matches = list(pattern.finditer(folder))
        day = _first_day(iter(matches))
        if day:
            return day, None
        if matches and pattern in (PARTITION, HIVE):
            return None, "-".join(matches[0].groups()[:3])
    return None, None


def day_of_path(path: Path) -> date | None:
    """Read a file's day from its folder's name or its own; None if neither states one."""
    day, _ = day_of_folder(path.parent.as_posix())
    return day or _first_day(IN_NAME.finditer(path.name))


def _first_day(matches: Iterator[re.Match[str]]) -> date | None:
    for match in matches:
        try:
            return date(*(int(number) for number in match.groups()[:3]))
        except ValueError:
            continue  # digits that are no date, such as 90210555
    return None


def is_format(path: Path, kind: str, head: Callable[[Path], bytes] | None = None) -> bool:
    """Return whether a file has a format, by its extension or else by its first bytes.

    The first bytes count if the extension is absent, `.log`, or only that of a compression.
    """
    name = path.name.lower()
    if name.endswith(SUFFIXES[kind]):
        return True
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    stem = name.removesuffix(packed)
    if not stem.endswith(".log") and "." in stem:
        return False
    start = first_bytes((head or _head)(path))
    return kind == next(
        (detected for magic, detected in _MAGIC.items() if start.startswith(magic)), "csv"
    )


def is_tsv(path: Path) -> bool:
    """Return whether the fields of a text file are separated by tabs, by its extension."""
    return ".tsv" in [suffix.lower() for suffix in path.suffixes]


def _head(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(HEAD_BYTES)


def partition_folders(values: Sequence[tuple[str, object]]) -> list[str]:
    """Build partition folder names whose day is found whatever the partition column is called.

    Args:
        values: Partition columns and their values, in order.

    Returns:
        One `name=value` each; a day in a column of another name becomes `dt=…`, unless another
        column already states the day.
    """
    named = [f"{name}={value}" for name, value in values]
    if PARTITION.search("/".join(named)) or HIVE.search("/".join(named)):
        return named
    for at, (_, value) in enumerate(values):
        if PARTITION.fullmatch(f"dt={value}"):
            named[at] = f"dt={value}"
            break
    return named
