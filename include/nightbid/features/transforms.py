"""From raw columns to model inputs: one small class per family of transforms.

Each is given what its feature learned, says which inputs it makes, and computes them from raw
rows. Work is done once per distinct value where that is possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import Floats, as_time, encode, joint_hashes, numbers, token_hashes
from nightbid.config.features import (
    Age,
    Bag,
    Buckets,
    Cross,
    DayOfWeek,
    Function,
    Hash,
    Hour,
    Identity,
    Numeric,
    QuantileBuckets,
    Sequence,
    TextNgrams,
)
from nightbid.features.values import (
    DAY_US,
    Floats32,
    Int32s,
    Ints,
    Items,
    RawColumns,
    as_float32,
    called,
    items_of,
    laid_out,
    moments_of,
    numeric_values,
)
from nightbid.schema import ModelInput

BATCHED = 8
"""A vocabulary this many times as long as the values to look up is better kept in a dictionary."""

HOUR_US = 3_600_000_000

EDGES = 16
"""Boundaries shown."""


class Transform(Protocol):
    """A feature, ready to be applied."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model inputs that it makes, in order."""
        ...

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs, [rows] each, in order."""
        ...

    @property
    def learned(self) -> str:
        """What it learned, in words; empty if there is nothing to learn."""
        return ""

    @property
    def looks_back(self) -> str:
        """Which earlier rows a row is told of, in words; empty if none."""
        return ""


@dataclass(frozen=True)
class Scaled(Transform):
    """(x - centre) * inverse; missing is 0, the centre."""

    name: str
    feature: Numeric | Age | Function
    centre: float
    inverse: float

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One float, and one that tells missing values where asked for."""
        names = [self.name, *([f"{self.name}__missing"] if self._tells_missing else [])]
        return tuple(one_float(each, self.name, self.feature.training_only) for each in names)

    @property
    def _tells_missing(self) -> bool:
        return isinstance(self.feature, Numeric) and self.feature.missing_indicator

    @property
    def learned(self) -> str:
        """Centre and scale."""
        robust = isinstance(self.feature, Numeric) and self.feature.scale == "robust"
        names = ("median", "interquartile range") if robust else ("mean", "standard deviation")
        return f"{names[0]} {self.centre:,.6g}, {names[1]} {1 / self.inverse:,.6g}"

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        found = self.of_numbers(numeric_values(self.name, self.feature, raw))
        return {name: pa.array(values) for name, values in found.items()}

    def of_numbers(self, values: Floats) -> dict[str, Floats32]:
        """Compute the columns of its inputs from `numeric_values`."""
        missing = np.isnan(values)
        scaled = np.where(missing, 0.0, (values - self.centre) * self.inverse)
        found = {self.name: as_float32(scaled)}
        if self._tells_missing:
            found[f"{self.name}__missing"] = missing.astype(np.float32)
        return found


@dataclass(frozen=True)
class Bucketed(Transform):
    """The bucket that a number falls into; boundaries belong to the bucket above."""

    name: str
    feature: QuantileBuckets | Buckets
    boundaries: Floats32

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One id."""
        return (_id(self.name, len(self.boundaries) + 2, self.feature.training_only),)

    @property
    def learned(self) -> str:
        """Its boundaries; of very many, the outer ones."""
        shown = [f"{each:,.6g}" for each in self.boundaries]
        if len(shown) > EDGES:
            shown[EDGES // 2 : -EDGES // 2] = ["…"]
        return f"boundaries {', '.join(shown)}" if shown else "no boundary: every value is alike"

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        values = numbers(raw.column(self.feature.column or self.name, self.name))
        return {name: pa.array(ids) for name, ids in self.of_numbers(values).items()}

    def of_numbers(self, values: Floats) -> dict[str, Int32s]:
        """Compute the columns of its inputs from numbers; NaN is missing."""
        found = np.searchsorted(self.boundaries, as_float32(values), side="right") + 1
        return {self.name: np.where(np.isnan(values), 0, found).astype(np.int32)}


@dataclass(frozen=True)
class FittedVocabulary:
    """Tokens, as ids of a vocabulary: 0 missing, then the OOV buckets, then the entries."""

    tokens: pa.Array
    oov_buckets: int

    @property
    def size(self) -> int:
        """Number of ids."""
        return 1 + self.oov_buckets + len(self.tokens)

    @property
    def in_words(self) -> str:
        """How many entries it has."""
        return f"{len(self.tokens):,} value{'s' * (len(self.tokens) != 1)}"

    def ids(self, encoded: tuple[Int32s, pa.Array]) -> Int32s:
        """Look up an encoded column; int32 [rows]."""
        codes, found = encoded
        # Once per distinct value. Arrow's lookup hashes the whole vocabulary each time, which is
        # still the fastest for the many of a batch; for the few of a request a kept dictionary is.
        if BATCHED * len(found) > len(self.tokens):
            places = pc.fill_null(pc.index_in(found, self.tokens), -1 - self.oov_buckets - 1)
            numbers = places.to_numpy(zero_copy_only=False) + (1 + self.oov_buckets)
        else:
            texts = found.to_numpy(zero_copy_only=False)
            numbers = np.fromiter(map(self._numbers.get, texts, repeat(-1)), np.int64, len(texts))
        table = np.append(numbers.astype(np.int64), 0)
        unknown = np.flatnonzero(table < 0)
        if self.oov_buckets == 1:
            table[unknown] = 1  # whatever the hash, which costs as much as the lookup
        elif len(unknown):
            hashed = token_hashes(found.take(pa.array(unknown)))
            table[unknown] = 1 + (hashed % np.uint64(self.oov_buckets)).astype(np.int64)
        # Code -1, missing, wraps to the last entry.
        return np.take(table.astype(np.int32), codes, mode="wrap")

    def prepare(self) -> None:
        """Build what the first small request would wait for."""
        len(self._numbers)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        # Built once and kept: a request must not hash the whole vocabulary.
        texts = self.tokens.to_numpy(zero_copy_only=False).tolist()
        return {each: number for number, each in enumerate(texts, 1 + self.oov_buckets)}


@dataclass(frozen=True)
class VocabularyTransform(Transform):
    """A value, as its number in a vocabulary."""

    name: str
    column: str
    vocabulary: FittedVocabulary
    training_only: bool

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One id."""
        return (_id(self.name, self.vocabulary.size, self.training_only, self.name),)

    @property
    def learned(self) -> str:
        """Entries of its vocabulary."""
        return self.vocabulary.in_words

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        return {self.name: pa.array(self.vocabulary.ids(raw.encoded(self.column, self.name)))}


@dataclass(frozen=True)
class Hashed(Transform):
    """One or several values, hashed together."""

    name: str
    feature: Hash | Cross | Function

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One id."""
        return (_id(self.name, self.feature.buckets + 1, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        if isinstance(self.feature, Function):
            columns = [encode(called(self.name, self.feature, raw))]
        else:
            names = self.feature.sources(self.name)
            columns = [raw.encoded(each, self.name) for each in names]
        missing = np.logical_and.reduce([codes < 0 for codes, _ in columns])
        found = 1 + (joint_hashes(columns) % np.uint64(self.feature.buckets)).astype(np.int64)
        return {self.name: pa.array(np.where(missing, 0, found).astype(np.int32))}


@dataclass(frozen=True)
class ListTransform(Transform):
    """The items of a list, as a bag or as a sequence."""

    name: str
    feature: Bag | Sequence
    vocabulary: FittedVocabulary
    shared: str

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One bag or sequence."""
        return (
            ModelInput(
                name=self.name,
                kind="bag" if isinstance(self.feature, Bag) else "sequence",
                feature=self.name,
                size=self.vocabulary.size,
                length=self.feature.length,
                training_only=self.feature.training_only,
                vocabulary=self.shared,
            ),
        )

    @property
    def learned(self) -> str:
        """Entries of its vocabulary."""
        return self.vocabulary.in_words

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        items = items_of(self.name, self.feature, raw)
        is_bag = isinstance(self.feature, Bag)
        ids = self.vocabulary.ids(encode(items.flat))
        matrix = laid_out(ids, items, self.feature.length, last=not is_bag)
        if not isinstance(self.feature, Bag):
            return {self.name: matrix_column(matrix)}
        return _bag(self.name, matrix, self._weights(raw, items, len(matrix)))

    def _weights(self, raw: RawColumns, items: Items, rows: int) -> Floats | None:
        """Weights as logged, laid out as the ids are; float64 [rows, length]."""
        assert isinstance(self.feature, Bag)
        if not self.feature.weights:
            return None
        found = items_of(self.name, self.feature, raw, self.feature.weights)
        matrix = np.zeros((rows, self.feature.length))
        # What has no value, or a weight that is no positive number, weighs nothing.
        kept = found.places < np.minimum(items.counts, self.feature.length)[found.rows]
        values = np.nan_to_num(np.maximum(numbers(found.flat), 0.0))
        matrix[found.rows[kept], found.places[kept]] = values[kept]
        return matrix


@dataclass(frozen=True)
class NgramTransform(Transform):
    """Words of a text and runs of them, hashed into a bag; shorter runs come first."""

    name: str
    feature: TextNgrams

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One bag."""
        return (
            ModelInput(
                name=self.name,
                kind="bag",
                feature=self.name,
                size=self.feature.buckets + 1,
                length=self.feature.length,
                training_only=self.feature.training_only,
            ),
        )

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        codes, tokens = raw.encoded(self.feature.column or self.name, self.name)
        matrix = np.append(
            self._of_texts(tokens), np.zeros((1, self.feature.length), np.int32), axis=0
        )
        return _bag(self.name, matrix[codes])

    def _of_texts(self, texts: pa.Array) -> Int32s:
        words = Items.of(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts))))
        one = joint_hashes([encode(words.flat)])
        matrix = np.zeros((len(texts), self.feature.length), np.int32)
        filled = np.zeros(len(texts), np.int64)
        joint = np.zeros(len(one), np.uint64)
        for length in range(1, self.feature.ngrams + 1):
            # joint[i] covers the words i … i + length - 1; those that leave their text drop out.
            size = max(len(one) - length + 1, 0)
            joint = joint[:size] * np.uint64(0x9E3779B97F4A7C15) + one[length - 1 :]
            joint ^= joint >> np.uint64(32)
            inside = words.rows[:size] == words.rows[length - 1 :]
            rows, places = words.rows[:size], words.places[:size] + filled[words.rows[:size]]
            keep = inside & (places < self.feature.length)
            ids = 1 + (joint % np.uint64(self.feature.buckets)).astype(np.int64)
            matrix[rows[keep], places[keep]] = ids[keep]
            filled += np.maximum(words.counts - length + 1, 0)
        return matrix


@dataclass(frozen=True)
class TimePartTransform(Transform):
    """A part of a time, or a small integer, as it is."""

    name: str
    feature: Hour | DayOfWeek | Identity

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One id."""
        size = {"hour": 24, "day_of_week": 7}.get(self.feature.transform, 0)
        if isinstance(self.feature, Identity):
            size = self.feature.size
        return (_id(self.name, size + 1, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        column = raw.column(self.feature.column or self.name, self.name)
        if isinstance(self.feature, Identity):
            values = numbers(column)
            with np.errstate(invalid="ignore"):
                good = (values >= 0) & (values < self.feature.size) & (values == np.floor(values))
            return {self.name: pa.array(np.where(good, values + 1, 0).astype(np.int32))}
        time = as_time(column)
        ids = self.of_moments(moments_of(time))
        if time.null_count:
            ids = np.where(np.asarray(pc.is_null(time)), 0, ids).astype(np.int32)
        return {self.name: pa.array(ids)}

    def of_moments(self, moments: Ints) -> Int32s:
        """Compute the input of an hour or a weekday from microseconds since 1970."""
        if isinstance(self.feature, Hour):
            return (moments // HOUR_US % 24 + 1).astype(np.int32)
        return ((moments // DAY_US + 3) % 7 + 1).astype(np.int32)


def one_float(name: str, feature: str, training_only: bool) -> ModelInput:
    """Declare an input that is a number."""
    return ModelInput(name=name, kind="float", feature=feature, training_only=training_only)


def _id(name: str, size: int, training_only: bool, vocabulary: str | None = None) -> ModelInput:
    return ModelInput(
        name=name,
        kind="id",
        feature=name,
        size=size,
        training_only=training_only,
        vocabulary=vocabulary,
    )


def matrix_column(matrix: npt.NDArray[np.int32] | Floats32) -> pa.Array:
    """Turn [rows, length] into a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _bag(name: str, matrix: Int32s, given: Floats | None = None) -> dict[str, pa.Array]:
    weight = np.where(matrix > 0, 1.0 if given is None else given, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    scaled = np.where(total > 0, weight / np.where(total > 0, total, 1.0), 0.0).astype(np.float32)
    return {name: matrix_column(matrix), f"{name}__weight": matrix_column(scaled)}
