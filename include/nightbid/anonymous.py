"""Rows without a user: which values of the user column mean that, and what such rows count as.

Logs have impressions without a user: no consent, private browsing, no advertising id. Their user is
null, empty, or a text that stands for all of them. Each is a user of its own where rows are grouped
by user, and has no history. Sampling, features and serving read user columns through this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode, whole

if TYPE_CHECKING:  # not needed to score a bundle
    from nightbid.config.columns import Columns

ALWAYS = ("", "00000000-0000-0000-0000-000000000000", "0" * 32)
"""Texts that mean no user in all logs: the last two are advertising ids that were turned off."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_OWN = np.uint64(0x6F776E2075736572)
"""Makes the user of such a row differ from the hash of its key."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UserColumn:
    """The user column of a pipeline; without a name, no column is one."""

    name: str = ""
    anonymous: tuple[str, ...] = ()
    """Texts that mean no user. Null and NaN always do."""

    @classmethod
    def of(cls, columns: Columns) -> UserColumn:
        """Take the user column from the roles of a pipeline's columns."""
        return cls(columns.user, tuple(dict.fromkeys((*ALWAYS, *columns.anonymous))))

    def is_absent(self, column: pa.ChunkedArray | pa.Array) -> Bools:
        """Return which values mean that the row has no user, bool [rows].

        Args:
            column: [rows] values of the user column, of any plain type. Numbers are compared as
                they are written, so 0 and 0.0 are the text 0.
        """
        array = whole(column)
        kind = array.type
        if pa.types.is_dictionary(kind):
            absent = np.append(self.is_absent(array.dictionary), True)
            return np.asarray(absent[np.asarray(pc.fill_null(array.indices, -1))])
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return np.asarray(pc.is_in(array, pa.array([None, *self.anonymous], kind)))
        if pa.types.is_integer(kind):
            limits = np.iinfo(kind.to_pandas_dtype())
            integers = [int(text) for text in self.anonymous if _INTEGER.fullmatch(text)]
            inside = [number for number in integers if limits.min <= number <= limits.max]
            return np.asarray(pc.is_in(array, pa.array([None, *inside], kind)))
        codes, tokens = encode(array)
        absent = np.asarray(pc.is_in(tokens, pa.array(self.anonymous, pa.string())), bool)
        return np.append(absent, True)[codes]

    def with_nulls(self, column: pa.ChunkedArray | pa.Array) -> pa.Array:
        """Replace the values that mean no user by null; returns the same type, [rows]."""
        array = whole(column)
        absent = self.is_absent(array)
        if int(absent.sum()) == array.null_count:
            return array
        if pa.types.is_dictionary(array.type):
            indices = pc.if_else(pa.array(absent), None, array.indices)
            return pa.DictionaryArray.from_arrays(indices, array.dictionary)
        return pc.if_else(pa.array(absent), pa.scalar(None, array.type), array)


NO_USER_COLUMN = UserColumn()


def own_users(keys: Ints) -> Ints:
    """Return the hashed user of rows without one, from the hashed key of each; int64 [rows]."""
    return (keys.view(np.uint64) ^ _OWN).view(np.int64)


def are_anonymous(keys: Ints, users: Ints) -> Bools:
    """Return which rows have no user, from their hashed keys and users; bool [rows]."""
    return np.asarray(own_users(keys) == users)
