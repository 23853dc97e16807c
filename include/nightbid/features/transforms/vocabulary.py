"""Transforms that map values to ids of a vocabulary of frequent values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import token_hashes
from nightbid.config.features import Bag, Sequence, Vocabulary
from nightbid.counts import counted
from nightbid.features.state import FittedState
from nightbid.features.transforms.transform import Transform, implements, one_id
from nightbid.features.values import Int32s, RawColumns
from nightbid.hashing import text_hash
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed to score a bundle.
    from nightbid.features.statistics import Statistic, TokenCounts

BATCHED = 8
"""Vocabulary entries per value to look up from which a cached dictionary is faster."""


Known = TypeVar("Known", Vocabulary, Bag, Sequence)


class Frequent(Protocol):
    """Settings of a vocabulary."""

    top_k: int
    min_count: int
    oov_buckets: int


@dataclass(frozen=True)
class FittedVocabulary:
    """Maps tokens to ids: 0 is missing, then come the OOV buckets, then the entries."""

    tokens: pa.Array
    oov_buckets: int

    @property
    def size(self) -> int:
        """Number of ids."""
        return 1 + self.oov_buckets + len(self.tokens)

    @property
    def in_words(self) -> str:
        """Number of entries, as text."""
        return counted(len(self.tokens), "value")

    def ids(self, encoded: tuple[Int32s, pa.Array]) -> Int32s:
        """Look up an encoded column; int32 [rows]."""
        codes, tokens = encoded
        # Each distinct value is looked up once. Arrow's lookup hashes the whole vocabulary each
        # time, which is fastest for a batch of many values; for the few values of a request, a
        # cached dictionary is.
        if BATCHED * len(tokens) > len(self.tokens):
            places = pc.fill_null(pc.index_in(tokens, self.tokens), -1 - self.oov_buckets - 1)
            numbers = places.to_numpy(zero_copy_only=False) + (1 + self.oov_buckets)
        else:
            texts = tokens.to_numpy(zero_copy_only=False)
            numbers = np.fromiter(map(self._numbers.get, texts, repeat(-1)), np.int64, len(texts))
        table = np.append(numbers.astype(np.int64), 0)
        unknown = np.flatnonzero(table < 0)
        if self.oov_buckets == 1:
            table[unknown] = 1  # no hash needed, which would cost as much as the lookup
        elif len(unknown):
            hashed = token_hashes(tokens.take(pa.array(unknown)))
            table[unknown] = 1 + (hashed % np.uint64(self.oov_buckets)).astype(np.int64)
        # Code -1 (missing) wraps to the last entry.
        return np.take(table.astype(np.int32), codes, mode="wrap")

    def id_of(self, token: str | None) -> int:
        """Look up the id of one token; None is missing."""
        if token is None:
            return 0
        number = self._numbers.get(token)
        if number is not None:
            return number
        return 1 if self.oov_buckets == 1 else 1 + text_hash(token) % self.oov_buckets

    def prepare(self) -> None:
        """Build the dictionary ahead of the first small request."""
        len(self._numbers)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        # Cached, so that requests do not hash the whole vocabulary.
        texts = self.tokens.to_numpy(zero_copy_only=False).tolist()
        return {text: number for number, text in enumerate(texts, 1 + self.oov_buckets)}


def vocabulary_of(transform: Transform[Any], name: str = "") -> FittedVocabulary:
    """Return the vocabulary of a feature; empty before fitting.

    Args:
        transform: Transform that uses the vocabulary.
        name: Feature whose vocabulary it is; empty: the transform's own.
    """
    context, name = transform.context, name or transform.name
    if name not in context.vocabularies:
        own = name == transform.name
        state = transform.state if own else context.learned.get(name, FittedState())
        settings = cast(Frequent, transform.feature if own else context.features[name])
        tokens = state.tokens if state.tokens is not None else pa.array([], pa.string())
        context.vocabularies[name] = FittedVocabulary(tokens, settings.oov_buckets)
    return context.vocabularies[name]


def frequent(feature: Frequent) -> str:
    """Describe which values a vocabulary holds, and how others are mapped."""
    seen = "once" if feature.min_count == 1 else f"{feature.min_count:,} times"
    others = counted(feature.oov_buckets, "bucket")
    return (
        f"the {feature.top_k:,} most frequent values seen at least {seen},"
        f" others hashed into {others}"
    )


class WithVocabulary(Transform[Known]):
    """Base of transforms whose ids are from a vocabulary."""

    def fit(self, statistic: TokenCounts) -> FittedState:
        """Return the most frequent values."""
        return FittedState(tokens=statistic.top(self.feature.top_k, self.feature.min_count))

    @cached_property
    def vocabulary(self) -> FittedVocabulary:
        """Own vocabulary, or that of the feature that the settings name."""
        return vocabulary_of(self, self.feature.shares())

    @property
    def most_new_ids(self) -> int:
        """Maximum number of entries of the vocabulary."""
        return self.feature.top_k

    @property
    def learned(self) -> str:
        """Number of entries of the vocabulary."""
        return self.vocabulary.in_words


@implements(Vocabulary)
class VocabularyTransform(WithVocabulary[Vocabulary]):
    """Id of a value in a vocabulary."""

    def depends_on(self) -> dict[str, Any]:
        """The column."""
        return {"tokens": self.column}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Count the values."""
        from nightbid.features.statistics import TokenCounts

        return TokenCounts.of(*raw.encoded(self.column, self.name))

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one id."""
        return (one_id(self.name, self.vocabulary.size, self.feature.training_only, self.name),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        return {self.name: pa.array(self.vocabulary.ids(raw.encoded(self.column, self.name)))}

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return f"one of {frequent(self.feature)}"
