"""Reads KuaiRand: 14 days of real short-video impressions, joined with user and video tables.

Gao et al., KuaiRand: An unbiased sequential recommendation dataset with randomly exposed videos
(CIKM 2022, doi 10.1145/3511808.3557624), CC BY-SA 4.0. Days are those of the log's `date` column,
which is UTC+8; `time` is UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from nightbid.config.sources import KuaiRandSource
from nightbid.data.source_schema import SourceSchema
from nightbid.errors import CorruptDataError, MissingDataError

MEANING = SourceSchema(
    outcomes=frozenset(
        {
            "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view",
            "play_time_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter",
            "watch_ratio", "finish", "like", "long_watch", "is_positive",
        }
    )
)  # fmt: skip
USERS, VIDEOS = "user_features_pure.csv.gz", "video_features_basic_pure.csv.gz"
SEQUENCES = "user_sequences.parquet"
SEQUENCE_LISTS = ("watch_seq", "like_seq", "long_watch_seq")


class KuaiRandLogs:
    """Logs in a folder with the log files (`*_2022*.parquet`) and three tables."""

    meaning = MEANING

    def __init__(self, block: KuaiRandSource) -> None:
        self._folder = Path(block.folder).expanduser()
        self._logs = sorted(self._folder.glob("*_2022*.parquet"))
        if not self._logs:
            raise MissingDataError(
                "no KuaiRand logs (*_2022*.parquet) in this folder",
                where=str(self._folder.resolve()),
                hint="set source.folder to the folder that holds them",
            )
        for name in (USERS, VIDEOS, SEQUENCES):
            if not (self._folder / name).exists():
                raise MissingDataError(
                    f"table {name} is missing",
                    where=str(self._folder.resolve()),
                    hint="copy it there from the same release as the logs",
                )

    def days(self) -> tuple[date, ...] | None:
        """All days of the logs."""
        return tuple(sorted(self._day_files))

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Digest of the files' names, sizes and modification times."""
        paths = [*self._logs, *(self._folder / name for name in (USERS, VIDEOS, SEQUENCES))]
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Digest of the bytes of the day's files and of the three tables."""
        tables = [self._folder / name for name in (USERS, VIDEOS, SEQUENCES)]
        digests = [digest(path) for path in (*self._day_files.get(day, []), *tables)]
        return {"logs": hashlib.sha256(repr(digests).encode()).hexdigest()[:32]}

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one day, joined with the user and video tables."""
        if day not in self._day_files:
            raise MissingDataError(
                f"there are no rows of {day}",
                where=str(self._folder),
                hint=f"the logs go from {min(self._day_files)} to {max(self._day_files)}",
            )
        number = int(f"{day:%Y%m%d}")
        for path in self._day_files[day]:
            log = _read(path, filters=[("date", "=", number)])
            log = log.drop_columns([name for name in ("source_file", "date") if name in
                                    log.column_names])  # fmt: skip
            joined = self._join(log.sort_by([("time_ms", "ascending"), ("user_id", "ascending")]))
            yield from joined.combine_chunks().to_batches()

    @cached_property
    def _day_files(self) -> dict[date, list[Path]]:
        files: dict[date, list[Path]] = {}
        for path in self._logs:
            for number in pc.unique(_read(path, columns=["date"])["date"]).to_pylist():
                text = str(number)
                try:
                    day = date(int(text[:4]), int(text[4:6]), int(text[6:]))
                except ValueError as error:
                    raise CorruptDataError(
                        f"{number!r} is not a day",
                        where=f"{path}, column date",
                        hint="days are written as yyyymmdd",
                    ) from error
                files.setdefault(day, []).append(path)
        return files

    def _join(self, log: pa.Table) -> pa.Table:
        time = log["time_ms"].cast(pa.timestamp("ms")).cast(pa.timestamp("us", "UTC"))
        parts = np.stack(
            [np.asarray(log[name]).astype(np.int64) for name in ("user_id", "video_id", "time_ms")]
        )
        # Collisions of 63-bit hashes among millions of rows are negligible.
        key = pd.util.hash_array(parts[0]) * np.uint64(31) + pd.util.hash_array(parts[1])
        key = pd.util.hash_array(key) * np.uint64(31) + pd.util.hash_array(parts[2])
        log = log.append_column("impression_id", pa.array((key >> np.uint64(1)).astype(np.int64)))
        log = log.append_column("time", time)
        for table, on in ((self._users, "user_id"), (self._videos, "video_id")):
            place = pc.index_in(log[on], table[on])
            for name in table.column_names:
                if name not in log.column_names:
                    log = log.append_column(name, table[name].take(place))
        return log

    @cached_property
    def _users(self) -> pa.Table:
        users = _csv(self._folder / USERS)
        sequences = _read(
            self._folder / SEQUENCES, columns=["user_id", "history_len", *SEQUENCE_LISTS]
        )
        place = pc.index_in(users["user_id"], sequences["user_id"])
        for name in sequences.column_names[1:]:
            users = users.append_column(name, sequences[name].take(place))
        return users.combine_chunks()

    @cached_property
    def _videos(self) -> pa.Table:
        return _csv(self._folder / VIDEOS).combine_chunks()


def _csv(path: Path) -> pa.Table:
    try:
        return pcsv.read_csv(
            path, convert_options=pcsv.ConvertOptions(column_types={"tag": pa.string()})
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(
            f"not a CSV table: {error}", where=str(path), hint="copy it again from the release"
        ) from error


def _read(path: Path, **options: object) -> pa.Table:
    try:
        return pq.read_table(path, **options)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(
            f"not a Parquet file: {error}", where=str(path), hint="copy it again from the release"
        ) from error
