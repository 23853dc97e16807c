"""Reuses columns of an earlier output that a changed definition leaves unchanged.

If the rows, a feature and its fitted state are the same, its encoded columns are copied from the
earlier output; the other columns are computed. The files have the same bytes either way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.features.fitted import Definition
from nightbid.featurize.column_chunks import write_with_columns_of
from nightbid.featurize.groups import Group, written_beside
from nightbid.night.key import library_versions, source_of
from nightbid.night.manifest import Manifest
from nightbid.night.stages import stage_named
from nightbid.night.task import StageTask
from nightbid.profile import Profile
from nightbid.schema import LABEL, RESERVED, WEIGHT, FeatureSchema
from nightbid.storage.files import is_local
from nightbid.storage.verify import file_digest
from nightbid.storage.workspace import fetch, read_manifest

log = logging.getLogger(__name__)
LOOK_AT = 5
"""Number of newest outputs with the same rows and code to compare."""


@dataclass(frozen=True)
class Base:
    """An earlier output, and the columns to copy from it."""

    folder: str
    features: frozenset[str]
    inputs: frozenset[str]
    """Model input columns of these features."""

    def write(self, computed: pa.Table, names: Sequence[str], group: Group, path: Path) -> None:
        """Write the featurized rows of a row group.

        Args:
            computed: Columns that are not copied.
            names: All model input columns, in order.
            group: Row group of the rows.
            path: File to write.
        """
        schema = pq.read_schema(self._file(group))
        reserved = [name for name in RESERVED if name in schema.names]
        fields = [
            computed.schema.field(name)
            if name in computed.column_names
            else pa.field(name, _as_computed(schema.field(name).type))
            for name in [*reserved, *names]
        ]
        with written_beside(path) as place:
            write_with_columns_of(self._file(group), computed, pa.schema(fields), place)

    def profile(self, computed: pa.Table, group: Group) -> Profile:
        """Profile the columns that are not copied.

        The columns that their profile depends on are read too: label, weight, and columns of zeros
        and ones, which are compared with each other.

        Args:
            computed: Columns that are not copied.
            group: Row group of the rows.
        """
        with pq.ParquetFile(self._file(group)) as file:
            names = [name for name in file.schema_arrow.names if name in (LABEL, WEIGHT)]
            rows = file.read(columns=names + sorted(_flags(file.metadata) & self.inputs))
        for name in computed.column_names:
            rows = rows.append_column(name, computed[name])
        return Profile.of(rows, without={*self.inputs, *RESERVED})

    def _file(self, group: Group) -> Path:
        return Path(self.folder) / group.target

    def complete(self, split: str, profile: Profile) -> Profile:
        """Add the profiles of the copied columns."""
        earlier = Profile.load(Path(self.folder) / "profile" / f"split={split}.json").columns
        copied = {
            name: column
            for name, column in earlier.items()
            if name in self.inputs or name in RESERVED
        }
        return replace(profile, columns=dict(sorted({**profile.columns, **copied}.items())))

    def counts(self, name: str, split: str, keys: Collection[str]) -> dict[str, object]:
        """Read counts of the copied features or inputs.

        Args:
            name: Kind of the counts: `oov` or `unreadable`.
            split: Split of the rows.
            keys: Features or inputs to return.
        """
        counts = json.loads((Path(self.folder) / "profile" / f"{name}-{split}.json").read_text())
        return {key: count for key, count in counts.items() if key in keys}


def base_of(task: StageTask, definition: Definition, fitted: Path) -> Base | None:
    """Find the earlier output of the same rows that shares most features; None if there is none.

    Args:
        task: Task of the stage.
        definition: Current definition of the features.
        fitted: Folder of the current fitted features.
    """
    parent = task.workspace.root / "stages" / task.spec.pipeline / "featurize"
    if not is_local(task.workspace.root) or not parent.exists():
        return None
    rows = task.inputs["sample"].manifest.digest
    code, versions = source_of(stage_named("featurize")), library_versions()
    outputs = []
    for folder in parent.iterdir():
        if folder.name.startswith("."):
            continue
        try:
            manifest = read_manifest(folder)
        except (CorruptDataError, WorkspaceError):
            continue
        if manifest.inputs.get("sample") != rows or manifest.code_digest != code:
            continue
        if manifest.versions == versions and any(
            entry.path.startswith("split=") for entry in manifest.files
        ):
            outputs.append((manifest.created, folder, manifest))
    digests = {
        path.relative_to(fitted.parent).as_posix(): file_digest(path)
        for folder in ("vocabularies", "history")
        for path in (fitted / folder).glob("*")
    }
    best: tuple[frozenset[str], Path] | None = None
    for _, folder, manifest in sorted(outputs, key=lambda entry: entry[0], reverse=True)[:LOOK_AT]:
        try:
            earlier_fitted = fetch(folder, ("fitted/",), manifest) / "fitted"
            same = _same(definition, fitted, digests, earlier_fitted, manifest)
            if same and (best is None or len(same) > len(best[0])):
                best = same, fetch(folder, manifest=manifest)
        except (CorruptDataError, WorkspaceError) as error:
            log.warning("an earlier output is not reused: %s", error)
    if best is None or 2 * len(best[0]) < len(definition.features):
        return None
    names = [
        model_input.name
        for model_input in FeatureSchema.load(fitted).inputs
        if model_input.feature in best[0]
    ]
    weights = [f"{name}__weight" for name in names]
    return Base(str(best[1]), best[0], frozenset([*names, *weights]))


def _flags(footer: pq.FileMetaData) -> set[str]:
    """Integer columns whose values are all 0 or 1, according to the footer's statistics."""
    beyond, flags = set(), set()
    for group in range(footer.num_row_groups):
        for number in range(footer.num_columns):
            column = footer.row_group(group).column(number)
            if column.physical_type != "INT32":
                continue
            bounds = column.statistics
            if bounds and bounds.has_min_max and bounds.min >= 0 and bounds.max <= 1:
                flags.add(column.path_in_schema)
            else:
                beyond.add(column.path_in_schema)
    return flags - beyond


def _as_computed(kind: pa.DataType) -> pa.DataType:
    """Rename the items of lists as they are before writing."""
    if not pa.types.is_fixed_size_list(kind):
        return kind
    return pa.list_(kind.value_type, kind.list_size)


def _same(
    definition: Definition,
    fitted: Path,
    files: Mapping[str, str],
    earlier_fitted: Path,
    manifest: Manifest,
) -> frozenset[str]:
    """Features whose definition and fitted state are the same in both."""
    other = Definition.load(earlier_fitted)
    known = {entry.path: entry.digest for entry in manifest.files}
    numbers = [
        json.loads((folder / "statistics.json").read_text()) for folder in (fitted, earlier_fitted)
    ]

    def is_same(name: str) -> bool:
        if not definition.is_as(other, name):
            return False
        feature = definition.features[name]
        states = [f"fitted/vocabularies/{name}.parquet", f"fitted/history/{name}.arrow"]
        if shared := feature.shares():
            states.append(f"fitted/vocabularies/{shared}.parquet")
        return numbers[0].get(name) == numbers[1].get(name) and all(
            files.get(path) == known.get(path) for path in states
        )

    return frozenset(name for name in definition.features if is_same(name))
