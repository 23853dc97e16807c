"""Read the tables of `nightbid bids`: logged auctions and logged choices."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nightbid.bidding.checks import Floats
from nightbid.counts import counted
from nightbid.errors import CorruptDataError, MissingDataError


def require_columns(frame: pd.DataFrame, names: Sequence[str], path: Path) -> None:
    """Refuse a log that lacks a column; empty names are ignored.

    Raises:
        MissingDataError: The log lacks one of the columns.
    """
    for name in filter(None, names):
        if name not in frame.columns:
            raise MissingDataError(
                f"there is no column {name!r}",
                where=str(path),
                hint=f"it has {', '.join(map(str, frame.columns[:20]))}",
            )


def read_numbers(column: pd.Series[Any], path: Path) -> Floats:
    """Return a column as float64; missing values are NaN.

    Raises:
        CorruptDataError: Some values are not numbers.
    """
    numbers = pd.to_numeric(column, errors="coerce")
    unread = numbers.isna() & column.notna()
    if unread.any():
        raise CorruptDataError(
            f"{counted(int(unread.sum()), 'value')} of {column.name} cannot be read as"
            f" numbers, the first {column[unread].iloc[0]!r}",
            where=str(path),
        )
    return np.asarray(numbers, np.float64)


def read_log(path: Path, names: str, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a log.

    Args:
        path: Path of a .parquet, .csv, .tsv or .txt file; text files may be gzipped (.gz).
        names: Column names in order, separated by commas, for text files without a header.
        texts: Columns whose values are names, such as users: "007" and "7" differ.

    Raises:
        MissingDataError: There is no such file.
        CorruptDataError: The file cannot be read, or its rows have another number of values than
            there are columns.
    """
    if not path.is_file():
        raise MissingDataError("no such file", where=str(path))
    kinds = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    try:
        if kinds and kinds[0] in (".parquet", ".pq"):
            return pd.read_parquet(path)
        tabs = not kinds or kinds[0] != ".csv"
        return _read_text(path, "\t" if tabs else ",", names, texts)
    except pd.errors.ParserWarning as error:
        raise CorruptDataError(
            "the rows have more values than there are columns",
            where=str(path),
            hint="name every column, and quote values that contain the separator",
        ) from error
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise CorruptDataError(str(error).splitlines()[0], where=str(path)) from error


def _read_text(path: Path, separator: str, names: str, texts: Sequence[str]) -> pd.DataFrame:
    first = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str).iloc[0].tolist()
    columns = [name.strip() for name in names.split(",")] if names else first
    if len(columns) != len(first):
        raise CorruptDataError(
            f"--names has {counted(len(columns), 'name')}, but the first row has"
            f" {counted(len(first), 'value')}",
            where=str(path),
            hint="name every column, in order",
        )
    named = Counter(name for name in columns if isinstance(name, str))
    if twice := [name for name, count in named.items() if count > 1]:
        raise CorruptDataError(
            f"there are several columns {twice[0]!r}", where=str(path), hint="rename all but one"
        )
    with warnings.catch_warnings():
        # Without index_col=False, rows with one value too many would move to the next column.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            path, sep=separator, header=None if names else "infer", index_col=False,
            names=columns if names else None, dtype=dict.fromkeys(filter(None, texts), str),
        )  # fmt: skip


def units(frame: pd.DataFrame, user: str) -> npt.NDArray[np.int64]:
    """Number the units that intervals resample: users, and each row without a user."""
    rows = np.arange(len(frame))
    if not user:
        return rows
    users = pd.factorize(frame[user])[0]
    return np.where(users < 0, len(frame) + rows, users)
