"""Reads a Delta table as a folder of the Parquet files of its newest version."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nightbid.data.day_names import partition_folders
from nightbid.errors import CorruptDataError, MissingDataError

Fetch = Callable[[Iterable[Path]], None]
"""Function that copies files to this machine."""
LOG = "_delta_log"
READ_AS_PARQUET = {"timestampNtz", "vacuumProtocolCheck", "v2Checkpoint", "domainMetadata"}
"""Table features that do not change how its Parquet files are read."""


def is_delta(root: Path) -> bool:
    """Tell whether a folder is a Delta table."""
    return (root / LOG).is_dir()


def delta_files(root: Path, fetch: Fetch) -> Iterable[tuple[Path, str]]:
    """List the files of a table's newest version, each below one folder per partition column.

    Args:
        root: Folder of the table, with its local log.
        fetch: Not used.

    Raises:
        CorruptDataError: The log cannot be read, or the Parquet files alone do not define the rows.
        MissingDataError: The table has no partition column.
    """
    import deltalake
    from deltalake.exceptions import DeltaError

    try:
        table = deltalake.DeltaTable(str(root))
        _refuse_unlike_parquet(root, table)
        actions = dict(zip(*_columns(table), strict=True))
    except (DeltaError, OSError, ValueError) as error:
        raise CorruptDataError(
            f"the Delta log cannot be read: {(str(error).splitlines() or ['?'])[0]}",
            where=str(root),
            hint="load the table again",
        ) from error
    names = table.metadata().partition_columns
    if not names:
        raise MissingDataError(
            "the Delta table has no partitions",
            where=str(root),
            hint="partition it by a column of days, such as dt",
        )
    values = zip(*(actions[f"partition.{name}"] for name in names), strict=True)
    for path, of_file in zip(actions["path"], values, strict=True):
        file = root / unquote(path)
        parts = partition_folders(list(zip(names, of_file, strict=True)))
        yield file, "/".join([*parts, file.name])


def _refuse_unlike_parquet(root: Path, table: Any) -> None:
    """Refuse tables with features that make the rows differ from those of the Parquet files."""
    features = set(table.protocol().reader_features or ()) - READ_AS_PARQUET
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") == "none":
        features -= {"columnMapping"}
    else:
        features |= {"columnMapping"}
    if table.metadata().configuration.get("delta.enableDeletionVectors") != "true":
        features -= {"deletionVectors"}
    if features:
        raise CorruptDataError(
            f"the Delta table uses {', '.join(sorted(features))}, which cannot be read",
            where=str(root),
            hint="write a copy without it, for example with CREATE TABLE … AS SELECT",
        )


def _columns(table: Any) -> tuple[list[str], list[list[Any]]]:
    import pyarrow as pa

    actions = pa.table(table.get_add_actions(flatten=True))
    return actions.column_names, [column.to_pylist() for column in actions.columns]
