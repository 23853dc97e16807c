"""Features of one context without Arrow: the same arithmetic on one value, at a tenth of the cost.

An Arrow call takes microseconds whatever it does, and a request of a new user would make dozens.
What is not the plain case of a type raises `UnusualRequestError`: the transform itself reads it.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import LARGEST, Floats, Hashes, as_time, joint_hash
from nightbid.errors import NightbidError
from nightbid.features.transforms.hashed import CrossTransform, HashTransform
from nightbid.features.transforms.history import KeyHistory
from nightbid.features.transforms.lists import BagTransform, ListTransform
from nightbid.features.transforms.numbers import Bucketed, NumericTransform
from nightbid.features.transforms.times import TimePartTransform
from nightbid.features.transforms.transform import bag_weights
from nightbid.features.transforms.vocabulary import VocabularyTransform
from nightbid.features.values import DAY_US, clipped_log, days_of
from nightbid.serving.json_values import from_json
from nightbid.serving.lookup import Array, ServedFeature

EXACT = 2**53
"""Smaller integers are float64 numbers."""
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
EARLIEST, LATEST = 1900, 2200
"""Years between which no time zone matters to Python's limits."""


class UnusualRequestError(NightbidError):
    """A request that has to be read column by column. Caught within the scorer."""


Value: TypeAlias = tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[str, Array], ...]]
"""What a feature of the context is, for one request: its integers, its floats, and its lists,
[1, length], with their names. The garbage collector does not follow such tuples: it would stop the
scorer for as long as it takes to visit all that is remembered."""


class SharedValues:
    """The values of a context, parsed where something reads them."""

    def __init__(
        self,
        given: dict[str, bytes],
        types: Mapping[str, pa.DataType],
        decode: Callable[[bytes], Any],
    ) -> None:
        self.given = given
        self.types, self.decode = types, decode
        self._arrays: dict[str, pa.Array] = {}
        self._moments: dict[str, int | None] = {}
        self._hashes: dict[tuple[str, ...], Hashes] = {}

    def number(self, name: str) -> float:
        """A value of a float64 or signed integer column; NaN if it is null."""
        value, kind = self.decode(self.given[name]), self.types[name]
        if value is None:
            return math.nan
        if type(value) is float and pa.types.is_float64(kind):
            return value
        if type(value) is int and abs(value) < _limit(kind):
            return float(value)
        raise UnusualRequestError("not a number that float64 holds exactly")

    def token(self, name: str) -> str | None:
        """The token of a value of a text or integer column; None if it is missing."""
        value, kind = self.decode(self.given[name]), self.types[name]
        if value is None:
            return None
        if pa.types.is_signed_integer(kind):
            if type(value) is int and abs(value) < _limit(kind):
                return str(value)
            raise UnusualRequestError("not an integer of this type")
        return _text(value)

    def tokens(self, name: str, separator: str) -> list[str | None]:
        """The items of a list of texts, or of a text of separated ones; None for missing ones."""
        value = self.decode(self.given[name])
        if value is None:
            return []
        if _is_text(self.types[name]):
            _text(value)
            return [each or None for each in value.split(separator)]
        if type(value) is not list:
            raise UnusualRequestError("not a list")
        return [None if each is None else _text(each) for each in value]

    def joint_hash(self, names: tuple[str, ...]) -> Hashes:
        """Hash values together, as `nightbid.column_parsing.joint_hashes`; uint64 [1]."""
        found = self._hashes.get(names)
        if found is None:
            found = self._hashes[names] = joint_hash([self.token(name) for name in names])
        return found

    def moment(self, name: str) -> int | None:
        """Microseconds since 1970 of a time; None where that takes more than Python's parser."""
        if name not in self._moments:
            self._moments[name] = self._moment(name)
        return self._moments[name]

    def _moment(self, name: str) -> int | None:
        kind = self.types[name]
        value = self.decode(self.given[name])
        if not isinstance(value, str) or not pa.types.is_timestamp(kind) or kind.unit != "us":
            return None
        found = dt.datetime.fromisoformat(value)
        if not EARLIEST < found.year < LATEST:
            return None
        aware = found if found.tzinfo else found.replace(tzinfo=dt.UTC)
        return (aware - EPOCH) // MICROSECOND

    def day(self, name: str, zone: str = "UTC") -> int:
        """Days since 1970 of a time by a zone's clock; 0 if it is null."""
        moment = self.moment(name) if zone == "UTC" else None
        if moment is None:
            return int(days_of(as_time(self.array(name), zone), zone)[0])
        return moment // DAY_US

    def array(self, name: str) -> pa.Array:
        """A column of one row."""
        found = self._arrays.get(name)
        if found is None:
            found = from_json([self.decode(self.given[name])], self.types[name])
            self._arrays[name] = found
        return found


Quick = Callable[[SharedValues, int | None], Value]
"""Context, and the day of its time where a feature reads it → value."""


def quick(feature: ServedFeature, types: Mapping[str, pa.DataType]) -> Quick | None:
    """Find a way around Arrow for a feature of the context; None if there is none.

    The way raises `UnusualRequestError` for a value that the transform has to read.
    """
    kinds = [types[name] for name in feature.sources]
    kind, name = kinds[0], feature.sources[0]
    match feature.transform:
        case TimePartTransform() if pa.types.is_timestamp(kind):
            return _of_moment(feature.transform, name)
        case Bucketed() | NumericTransform() if _is_number(kind):
            return _of_number(feature.transform, name)
        case VocabularyTransform() if _has_tokens(kind):
            return _of_token(feature.transform, name)
        case HashTransform() | CrossTransform() if all(map(_has_tokens, kinds)):
            return _of_hash(feature.transform, feature.sources)
        case KeyHistory() if all(map(_has_tokens, kinds)):
            return _of_history(feature.transform, feature.sources)
        case ListTransform() if len(kinds) == 1 and (_is_text(kind) or _is_list_of_texts(kind)):
            return _of_list(feature.transform, name)
    return None


def value_of(made: Mapping[str, Array]) -> Value:
    """Split columns of one row by their type."""
    ints: list[int] = []
    floats: list[float] = []
    matrices: list[tuple[str, Array]] = []
    for name, values in made.items():
        if values.ndim == 2:
            matrices.append((name, values))
        elif values.dtype == np.int32:
            ints.append(int(values[0]))
        else:
            floats.append(float(values[0]))
    return tuple(ints), tuple(floats), tuple(matrices)


def _of_moment(transform: TimePartTransform[Any], name: str) -> Quick:
    def find(parsed: SharedValues, day: int | None) -> Value:
        moment = parsed.moment(name)
        if moment is None:
            raise UnusualRequestError("not a time that Python reads as Arrow does")
        return value_of({name: transform.of_moments(np.array([moment], np.int64))})

    return find


def _of_number(transform: Bucketed[Any] | NumericTransform, name: str) -> Quick:
    if isinstance(transform, Bucketed):
        return lambda parsed, day: value_of(transform.of_numbers(_readable(parsed.number(name))))
    return lambda parsed, day: value_of(
        transform.of_numbers(clipped_log(transform.feature, _readable(parsed.number(name))))
    )


def _of_token(transform: VocabularyTransform, name: str) -> Quick:
    vocabulary = transform.vocabulary
    return lambda parsed, day: ((vocabulary.id_of(parsed.token(name)),), (), ())


def _of_hash(transform: HashTransform | CrossTransform, names: tuple[str, ...]) -> Quick:
    # A cross may read a column twice, and in an order of its own.
    read = tuple(transform.feature.columns) if isinstance(transform, CrossTransform) else names
    buckets = transform.feature.buckets

    def find(parsed: SharedValues, day: int | None) -> Value:
        if all(parsed.token(name) is None for name in names):
            return (0,), (), ()
        return (1 + int(parsed.joint_hash(read)[0]) % buckets,), (), ()

    return find


def _of_history(transform: KeyHistory[Any], names: tuple[str, ...]) -> Quick:
    read = tuple(transform.feature.sources(transform.name))

    def find(parsed: SharedValues, day: int | None) -> Value:
        assert day is not None
        values = transform.of_keys(parsed.joint_hash(read), np.array([day], np.int32))
        return (), (float(values[0]),), ()

    return find


def _of_list(transform: ListTransform[Any], name: str) -> Quick:
    vocabulary, length = transform.vocabulary, transform.feature.length
    separator, is_bag = transform.feature.separator, isinstance(transform, BagTransform)

    def find(parsed: SharedValues, day: int | None) -> Value:
        items = parsed.tokens(name, separator)
        items = items[:length] if is_bag else items[-length:]
        matrix = np.zeros((1, length), np.int32)
        matrix[0, : len(items)] = [vocabulary.id_of(each) for each in items]
        made = {transform.name: matrix}
        if is_bag:
            made[f"{transform.name}__weight"] = bag_weights(matrix)
        return (), (), tuple(made.items())

    return find


def _text(value: Any) -> str | None:
    if type(value) is not str:
        raise UnusualRequestError("not a text")
    if not value.isascii():
        value.encode()  # half a surrogate pair is refused
    return value or None


def _limit(kind: pa.DataType) -> int:
    return int(min(EXACT, 1 << (kind.bit_width - 1)))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_float64(kind) or pa.types.is_signed_integer(kind))


def _has_tokens(kind: pa.DataType) -> bool:
    return bool(_is_text(kind) or pa.types.is_signed_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list_of_texts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(
        kind.value_type
    )


def _readable(value: float) -> Floats:
    """A number as `nightbid.column_parsing.numbers` reads it; float64 [1]."""
    return np.array([value if abs(value) < LARGEST else math.nan])
