"""Reads an Iceberg table as a folder of the Parquet files of its newest version."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nightbid.data.day_names import partition_folders
from nightbid.errors import CorruptDataError, DataError, MissingDataError

Fetch = Callable[[Iterable[Path]], None]
"""Function that copies files to this machine."""
METADATA = re.compile(r"metadata/v?(\d+)[^/]*\.metadata\.json$")
_EPOCH = date(1970, 1, 1)


def is_iceberg(root: Path) -> bool:
    """Tell whether a folder is an Iceberg table."""
    return any((root / "metadata").glob("*.metadata.json"))


def newest_metadata(names: Iterable[str], where: str) -> str:
    """Choose a table's newest metadata file by the version numbers in the names.

    Args:
        names: Paths relative to the table's folder.
        where: The folder, for error messages.

    Raises:
        CorruptDataError: There is not exactly one newest file; only a catalog could decide.
    """
    by_version: dict[int, list[str]] = {}
    for name in names:
        if number := METADATA.search(name):
            by_version.setdefault(int(number[1]), []).append(name)
    newest = by_version[max(by_version)] if by_version else []
    if len(newest) != 1:
        raise CorruptDataError(
            f"{len(newest)} metadata files of the Iceberg table could be the newest",
            where=where,
            hint="delete the files in its metadata/ folder that the table's catalog does not"
            " reference",
        )
    return newest[0]


def iceberg_files(root: Path, fetch: Fetch) -> Iterator[tuple[Path, str]]:
    """List the files of a table's newest version, each below one folder per partition field.

    Args:
        root: Folder of the table, with the metadata file of its newest version.
        fetch: Copies manifests to this machine if they are elsewhere.

    Raises:
        CorruptDataError: The metadata cannot be read, or the data files alone do not define the
            rows.
        MissingDataError: The table has files without a partition.
    """
    try:
        table = _opened(root, fetch)
        tasks = list(table.scan().plan_files())
    except DataError:
        raise
    except Exception as error:  # the library's errors have no common base class
        raise CorruptDataError(
            f"the Iceberg metadata cannot be read: {(str(error).splitlines() or ['?'])[0]}",
            where=str(root),
            hint="load the table again",
        ) from error
    _refuse_other_names(root, table)
    specs = table.specs()
    for task in tasks:
        file = task.file
        if task.delete_files:
            raise _refused(root, "rows deleted in separate files (merge-on-read)")
        if file.file_format.value.upper() != "PARQUET":
            raise _refused(root, f"{file.file_format.value} files")
        fields = specs[file.spec_id].fields
        if not fields:
            raise MissingDataError(
                "the Iceberg table has files without a partition",
                where=str(root),
                hint="partition it by a column of days, such as dt, or by day(time)",
            )
        path = _below(root, file.file_path, table.location())
        values = [
            (field.name, _value(table, field, file.partition[at]))
            for at, field in enumerate(fields)
        ]
        yield path, "/".join([*partition_folders(values), path.name])


def _opened(root: Path, fetch: Fetch) -> Any:
    """Open the newest version; read its manifests below the root, even of a moved table."""
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import StaticTable

    names = [path.relative_to(root).as_posix() for path in (root / "metadata").iterdir()]
    path = root / newest_metadata(names, str(root))
    metadata = FromInputFile.table_metadata(PyArrowFileIO().new_input(str(path)))

    class LocalFileIO(PyArrowFileIO):
        """Reads the table's files from its local folder."""

        def new_input(self, location: str) -> Any:
            """Open a file of the table."""
            path = _below(root, location, metadata.location)
            fetch([path])
            return super().new_input(str(path))

    return StaticTable(
        identifier=("table", root.name),
        metadata=metadata,
        metadata_location=str(path),
        io=LocalFileIO(),
        catalog=NoopCatalog("none"),
    )


def _below(root: Path, address: str, location: str) -> Path:
    """Map a file's recorded address to the table's folder, which may have been moved or copied.

    Raises:
        CorruptDataError: The file is outside the folder.
    """
    file_path, base = (
        f"{parts.netloc}{unquote(parts.path)}" for parts in map(urlsplit, (address, location))
    )
    try:
        return root / Path(file_path).relative_to(base)
    except ValueError:
        raise _refused(root, f"files outside of its folder, such as {address},") from None


def _refuse_other_names(root: Path, table: Any) -> None:
    """Refuse tables with renamed columns: older files still have the old names."""
    now = {field.field_id: field.name for field in table.schema().fields}
    ids = {name: number for number, name in now.items()}
    for schema in table.metadata.schemas:
        for field in schema.fields:
            renamed = now.get(field.field_id, field.name) != field.name
            if renamed or ids.get(field.name, field.field_id) != field.field_id:
                raise _refused(root, f"a column that was renamed or added again ({field.name!r})")


def _refused(root: Path, feature: str) -> CorruptDataError:
    return CorruptDataError(
        f"the Iceberg table has {feature}, which cannot be read",
        where=str(root),
        hint="write a copy without it, for example with CREATE TABLE … AS SELECT",
    )


def _value(table: Any, field: Any, value: Any) -> str:
    """Format a partition value the way day folders are named."""
    from pyiceberg.types import DateType

    transform = str(field.transform)
    kind = table.schema().find_type(field.source_id)
    is_date = transform == "day" or (transform == "identity" and isinstance(kind, DateType))
    if is_date and isinstance(value, int):
        return str(_EPOCH + timedelta(days=value))
    if transform == "hour" and isinstance(value, int):
        return f"{_EPOCH + timedelta(days=value // 24)}-{value % 24:02d}"
    return str(value)
