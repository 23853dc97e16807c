"""Features of one context without Arrow: the same arithmetic on one value, at a tenth of the cost.

An Arrow call takes microseconds whatever it does, and a request of a new user would need dozens of
calls. Anything but the plain case of a type raises `UnusualRequestError`; the transform itself then
handles the value.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from nightbid.anonymous import NO_USER_COLUMN, UserColumn
from nightbid.column_parsing import Floats, Hashes, joint_hash
from nightbid.errors import NightbidError
from nightbid.features.transforms.hashed import CrossTransform, HashTransform
from nightbid.features.transforms.history import KeyHistory
from nightbid.features.transforms.lists import BagTransform, ListTransform
from nightbid.features.transforms.numbers import Bucketed, NumericTransform
from nightbid.features.transforms.times import TimePartTransform
from nightbid.features.transforms.transform import bag_weights
from nightbid.features.transforms.vocabulary import VocabularyTransform
from nightbid.features.values import DAY_US, clipped_log, days_of
from nightbid.number_parsing import LARGEST
from nightbid.serving.json_values import from_json
from nightbid.serving.lookup import Array, ServedFeature
from nightbid.time_parsing import as_time

EXACT = 2**53
"""Bound below which float64 represents every integer exactly."""
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
EARLIEST, LATEST = 1900, 2200
"""Years between which time-zone offsets cannot exceed the limits of Python's datetime."""


class UnusualRequestError(NightbidError):
    """Raised for a request that must be read column by column. Handled within the scorer."""


ContextInputs: TypeAlias = tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[str, Array], ...]]
"""Inputs of a context feature for one request: its integers, its floats, and its lists [1, length]
with their names. Tuples, because the garbage collector untracks them: otherwise it would stop the
scorer while visiting the whole cache."""


class SharedValues:
    """Values of a context, parsed on first use."""

    def __init__(
        self,
        given: dict[str, bytes],
        types: Mapping[str, pa.DataType],
        decode: Callable[[bytes], Any],
        user: UserColumn = NO_USER_COLUMN,
    ) -> None:
        self.given = given
        self.types, self.decode = types, decode
        self._user = user
        self._arrays: dict[str, pa.Array] = {}
        self._moments: dict[str, int | None] = {}
        self._hashes: dict[tuple[str, ...], Hashes] = {}

    def value(self, name: str) -> Any:
        """Return the decoded value of a column; None for null, and for no user."""
        value = self.decode(self.given[name])
        if name == self._user.name:
            kind = self.types[name]
            if not _has_tokens(kind):
                raise UnusualRequestError("users are neither strings nor integers")
            expected = str if _is_text(kind) else int
            if type(value) is expected and str(value) in self._user.anonymous:
                return None
        return value

    def number(self, name: str) -> float:
        """Return a value of a float64 or signed integer column; NaN for null."""
        value, kind = self.value(name), self.types[name]
        if value is None:
            return math.nan
        if type(value) is float and pa.types.is_float64(kind):
            return value
        if type(value) is int and abs(value) < _limit(kind):
            return float(value)
        raise UnusualRequestError("not a number that float64 holds exactly")

    def token(self, name: str) -> str | None:
        """Return the token of a value of a string or integer column; None if missing."""
        value, kind = self.value(name), self.types[name]
        if value is None:
            return None
        if pa.types.is_signed_integer(kind):
            if type(value) is int and abs(value) < _limit(kind):
                return str(value)
            raise UnusualRequestError("not an integer of this type")
        return _text(value)

    def tokens(self, name: str, separator: str) -> list[str | None]:
        """Return the items of a list of strings, or of a delimited string; None if missing."""
        value = self.value(name)
        if value is None:
            return []
        if _is_text(self.types[name]):
            _text(value)
            return [token or None for token in value.split(separator)]
        if type(value) is not list:
            raise UnusualRequestError("not a list")
        return [None if token is None else _text(token) for token in value]

    def joint_hash(self, names: tuple[str, ...]) -> Hashes:
        """Hash values jointly, as `nightbid.column_parsing.joint_hashes` does; uint64 [1]."""
        hashes = self._hashes.get(names)
        if hashes is None:
            hashes = self._hashes[names] = joint_hash([self.token(name) for name in names])
        return hashes

    def moment(self, name: str) -> int | None:
        """Return a time in microseconds since 1970; None if Python cannot parse it exactly."""
        if name not in self._moments:
            self._moments[name] = self._moment(name)
        return self._moments[name]

    def _moment(self, name: str) -> int | None:
        kind = self.types[name]
        value = self.decode(self.given[name])
        if not isinstance(value, str) or not pa.types.is_timestamp(kind) or kind.unit != "us":
            return None
        time = dt.datetime.fromisoformat(value)
        if not EARLIEST < time.year < LATEST:
            return None
        aware = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
        return (aware - EPOCH) // MICROSECOND

    def day(self, name: str, zone: str = "UTC") -> int:
        """Return a time's days since 1970 in a time zone; 0 for null."""
        moment = self.moment(name) if zone == "UTC" else None
        if moment is None:
            return int(days_of(as_time(self.array(name), zone), zone)[0])
        return moment // DAY_US

    def array(self, name: str) -> pa.Array:
        """Return a value as an Arrow column of one row."""
        array = self._arrays.get(name)
        if array is None:
            array = from_json([self.decode(self.given[name])], self.types[name])
            self._arrays[name] = array
        return array


Quick = Callable[[SharedValues, int | None], ContextInputs]
"""Function from context values, and the day if the feature reads it, to the feature's value."""


def quick(feature: ServedFeature, types: Mapping[str, pa.DataType]) -> Quick | None:
    """Return a function that computes a context feature without Arrow; None if there is none.

    It raises `UnusualRequestError` for a value that the transform has to handle.
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


def value_of(columns: Mapping[str, Array]) -> ContextInputs:
    """Group columns of one row by their type."""
    ints: list[int] = []
    floats: list[float] = []
    matrices: list[tuple[str, Array]] = []
    for name, values in columns.items():
        if values.ndim == 2:
            matrices.append((name, values))
        elif values.dtype == np.int32:
            ints.append(int(values[0]))
        else:
            floats.append(float(values[0]))
    return tuple(ints), tuple(floats), tuple(matrices)


def _of_moment(transform: TimePartTransform[Any], name: str) -> Quick:
    def find(parsed: SharedValues, day: int | None) -> ContextInputs:
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
    # A cross may read a column twice, and in its own order.
    read = tuple(transform.feature.columns) if isinstance(transform, CrossTransform) else names
    buckets = transform.feature.buckets

    def find(parsed: SharedValues, day: int | None) -> ContextInputs:
        if all(parsed.token(name) is None for name in names):
            return (0,), (), ()
        return (1 + int(parsed.joint_hash(read)[0]) % buckets,), (), ()

    return find


def _of_history(transform: KeyHistory[Any], names: tuple[str, ...]) -> Quick:
    read = tuple(transform.feature.sources(transform.name))

    def find(parsed: SharedValues, day: int | None) -> ContextInputs:
        assert day is not None
        values = transform.of_keys(parsed.joint_hash(read), np.array([day], np.int32))
        return (), (float(values[0]),), ()

    return find


def _of_list(transform: ListTransform[Any], name: str) -> Quick:
    vocabulary, length = transform.vocabulary, transform.feature.length
    separator, is_bag = transform.feature.separator, isinstance(transform, BagTransform)

    def find(parsed: SharedValues, day: int | None) -> ContextInputs:
        items = parsed.tokens(name, separator)
        items = items[:length] if is_bag else items[-length:]
        matrix = np.zeros((1, length), np.int32)
        matrix[0, : len(items)] = [vocabulary.id_of(token) for token in items]
        columns = {transform.name: matrix}
        if is_bag:
            columns[f"{transform.name}__weight"] = bag_weights(matrix)
        return (), (), tuple(columns.items())

    return find


def _text(value: Any) -> str | None:
    if type(value) is not str:
        raise UnusualRequestError("not a string")
    if not value.isascii():
        value.encode()  # raises for a lone surrogate
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
    """Convert a number as `nightbid.number_parsing.numbers` does; float64 [1]."""
    return np.array([value if abs(value) < LARGEST else math.nan])
