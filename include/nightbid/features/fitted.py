"""Features with their fitted statistics: the one path from raw rows to model inputs.

Beam, training, evaluation and serving call `FittedFeatures.transform`; nothing else computes
inputs. A saved folder holds `features.json` (the model inputs), `definition.json`,
`statistics.json`, `vocabularies/*.parquet` and `history/*.arrow`, which suffice for serving, and
`documentation.json` for readers. History files are memory-mapped, not loaded.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.anonymous import UserColumn
from nightbid.config.base import Block
from nightbid.config.features import Feature, Vocabulary
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.features import mapped
from nightbid.features.state import FittedState
from nightbid.features.transforms.transform import FeatureContext, Transform, transform_of
from nightbid.features.values import RawColumns, naming
from nightbid.schema import FeatureSchema

if TYPE_CHECKING:  # not needed to score a bundle
    from upath import UPath

    from nightbid.config.pipeline import PipelineSpec
    from nightbid.features.describe import Documentation
    from nightbid.features.statistics import Statistics


class Definition(Block):
    """Settings of the features and of the pipeline that features depend on."""

    features: dict[str, Feature]
    time: str
    """Column with the time of the impression."""
    lag_days: int = 0
    """Days until a label is final."""
    time_zone: str = "UTC"
    """Time zone of the days of the logs: rates and counts end where the row's day begins."""
    user: str = ""
    """Column with the user."""
    anonymous: tuple[str, ...] = ()
    """Texts in it that mean that a row has no user."""

    @classmethod
    def of(cls, spec: PipelineSpec) -> Definition:
        """Take the settings that features depend on from a pipeline.

        Raises:
            ConfigError: A sequence shares the vocabulary of a feature that has none.
        """
        for name, feature in spec.features.items():
            shared = feature.shares()
            if shared and not isinstance(spec.features.get(shared), Vocabulary):
                known = [n for n, other in spec.features.items() if isinstance(other, Vocabulary)]
                close = difflib.get_close_matches(shared, known, n=1)
                raise ConfigError(
                    f"no vocabulary feature called {shared!r}",
                    where=f"features.{name}.vocabulary",
                    hint=f"did you mean {close[0]!r}?" if close else "name one, or leave it out",
                )
        return cls(
            features=spec.features,
            time=spec.columns.time,
            lag_days=spec.label.attribution_days,
            time_zone=getattr(spec.source, "time_zone", "UTC"),
            user=(user := UserColumn.of(spec.columns)).name,
            anonymous=user.anonymous,
        )

    @classmethod
    def load(cls, folder: Path | UPath) -> Definition:
        """Load it from a fitted-features folder."""
        return cls.model_validate_json((folder / "definition.json").read_text(encoding="utf-8"))

    @property
    def user_column(self) -> UserColumn:
        """Column with the user, and the texts that mean that there is none."""
        return UserColumn(self.user, self.anonymous)

    def is_as(self, other: Definition, name: str) -> bool:
        """Whether a feature, and the vocabulary that it shares, have the same settings in both."""
        feature, other_feature = self.features.get(name), other.features.get(name)
        if feature is None or feature != other_feature:
            return False
        if (self.time, self.lag_days, self.time_zone) != (
            other.time, other.lag_days, other.time_zone,
        ):  # fmt: skip
            return False
        reads_user = {self.user, other.user}.intersection(feature.sources(name))
        if reads_user and self.user_column != other.user_column:
            return False
        shared = feature.shares()
        return not shared or self.is_as(other, shared)


@dataclass(frozen=True)
class FittedFeatures:
    """Feature definitions and their fitted states."""

    definition: Definition
    learned: Mapping[str, FittedState]

    @classmethod
    def fit(
        cls, definition: Definition, statistics: Statistics, map_each: Callable[..., Any] = map
    ) -> FittedFeatures:
        """Fit features to merged statistics.

        Args:
            definition: Settings of the features.
            statistics: Statistics of all training rows, by feature.
            map_each: Applies a function to each feature; for example `map` of a thread pool.
        """
        transforms = cls(definition, {}).transforms
        known = [name for name in statistics if name in transforms]

        def alike(name: str) -> object:
            """Key under which features share a state: those with the same history statistic do."""
            of = type(transforms[name])
            return (id(statistics[name]), of.fit) if of.learns_history else name

        first = {alike(name): name for name in reversed(known)}
        fitted = map_each(lambda name: transforms[name].fit(statistics[name]), first.values())
        learned = dict(zip(first, fitted, strict=True))
        return cls(definition, {name: learned[alike(name)] for name in known})

    @cached_property
    def transforms(self) -> dict[str, Transform[Any]]:
        """Transforms by feature, ready to apply."""
        definition = self.definition
        context = FeatureContext(
            definition.features,
            self.learned,
            definition.time,
            definition.lag_days,
            definition.time_zone,
            definition.user_column,
        )
        return {
            name: transform_of(name, feature, self.learned.get(name, FittedState()), context)
            for name, feature in definition.features.items()
        }

    @cached_property
    def schema(self) -> FeatureSchema:
        """Every model input, in order."""
        return FeatureSchema(
            inputs=tuple(
                model_input
                for transform in self.transforms.values()
                for model_input in transform.inputs
            )
        )

    @cached_property
    def documentation(self) -> Documentation:
        """Documentation of each feature with its fitted statistics."""
        from nightbid.features.describe import Documentation, describe

        learned = set(self.learned)
        return Documentation(
            features=tuple(describe(name, self.transforms, learned) for name in self.transforms)
        )

    def transform(self, raw: pa.Table, without: Collection[str] = ()) -> pa.Table:
        """Compute the model inputs of raw rows.

        Args:
            raw: Source columns of the features; other columns are ignored.
            without: Features to leave out.

        Returns:
            The inputs of `schema`, in its order, one row per raw row: ids int32, floats float32,
            bags and sequences fixed-size lists (a bag followed by `<name>__weight`).

        Raises:
            DataError: A source column is missing, or has a type that its feature cannot read.
        """
        rows, columns = RawColumns(raw, self.definition.user_column), dict[str, pa.Array]()
        for name, transform in self.transforms.items():
            if name in without:
                continue
            with naming(name):
                columns.update(transform.apply(rows))
        return pa.table(columns)

    @property
    def oov_buckets(self) -> dict[str, int]:
        """Inputs with a vocabulary → number of its OOV ids, which follow id 0."""
        return {
            name: transform.vocabulary.oov_buckets
            for name, transform in self.transforms.items()
            if transform.vocabulary is not None
        }

    def with_history(self, newer: FittedFeatures) -> FittedFeatures:
        """Use the history of newer rows for features with the same definition.

        A champion keeps its vocabularies and scales but gets newer history, as in serving.
        """
        learned = dict(self.learned)
        for name, state in self.learned.items():
            same = self.definition.features[name] == newer.definition.features.get(name)
            if state.history is not None and same and name in newer.learned:
                learned[name] = replace(state, history=newer.learned[name].history)
        return FittedFeatures(self.definition, learned)

    def save(self, folder: Path, map_each: Callable[..., Any] = map) -> None:
        """Save to a folder; equal features give equal bytes.

        Args:
            folder: Folder to write to; created if missing.
            map_each: Applies a function to each feature, as in `fit`.
        """
        from nightbid.storage.verify import link_or_copy

        folder.mkdir(parents=True, exist_ok=True)
        self.schema.save(folder)
        self.documentation.save(folder)
        (folder / "definition.json").write_text(self.definition.model_dump_json(indent=1))
        numbers = {name: state.numbers for name, state in self.learned.items() if state.numbers}
        (folder / "statistics.json").write_text(json.dumps(numbers, indent=1, sort_keys=True))
        first = {id(state.history): name for name, state in reversed(list(self.learned.items()))}
        list(
            map_each(
                lambda name: _save_tables(folder, name, self.learned[name], first), self.learned
            )
        )
        for name, state in self.learned.items():
            if state.history is not None and (same := first[id(state.history)]) != name:
                _history_path(folder, name).unlink(missing_ok=True)
                link_or_copy(_history_path(folder, same), _history_path(folder, name))

    @classmethod
    def load(cls, folder: Path, map_each: Callable[..., Any] = map) -> FittedFeatures:
        """Load a folder that `save` wrote.

        Args:
            folder: Folder to read.
            map_each: Applies a function to each feature, as in `fit`.

        Raises:
            CorruptDataError: The folder does not hold fitted features.
        """
        try:
            definition = Definition.load(folder)
            numbers = json.loads((folder / "statistics.json").read_text())
            names = list(definition.features)
            states = map_each(lambda name: _load_one(folder, name, numbers.get(name, ())), names)
            learned = {name: state for name, state in zip(names, states, strict=True) if state}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise CorruptDataError(
                f"not a folder of fitted features ({error})",
                where=str(folder),
                hint="rerun the stage that wrote it",
            ) from error
        return cls(definition, learned)


def _save_tables(folder: Path, name: str, learned: FittedState, first: Mapping[int, str]) -> None:
    if learned.tokens is not None:
        # Tokens are distinct: dictionary encoding in Parquet would be larger and slower.
        tokens = pa.table({"token": learned.tokens})
        _write(tokens, folder / "vocabularies" / name, use_dictionary=False)
    if learned.history is not None and first[id(learned.history)] == name:
        mapped.write(learned.history, _history_path(folder, name))


def _load_one(folder: Path, name: str, numbers: list[float]) -> FittedState | None:
    """Load the fitted state of a feature; None if it has none."""
    tokens = folder / "vocabularies" / f"{name}.parquet"
    state = FittedState(
        numbers=tuple(numbers),
        tokens=_read(tokens)["token"].combine_chunks() if tokens.exists() else None,
        history=_history(folder, name),
    )
    return state if state.numbers or state.tokens is not None or state.history is not None else None


def _history_path(folder: Path, name: str) -> Path:
    return folder / "history" / f"{name}.arrow"


def _history(folder: Path, name: str) -> pa.Table | None:
    path = _history_path(folder, name)
    if path.exists():
        return mapped.mapped(path)
    # Format of version 0.1.0.
    path = path.with_suffix(".parquet")
    return _read(path) if path.exists() else None


def _write(table: pa.Table, stem: Path, *, use_dictionary: bool = True) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.parent / f"{stem.name}.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=use_dictionary)


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()
