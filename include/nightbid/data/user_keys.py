"""Replaces user ids with keyed hashes before the first stage stores them.

The keyed id of a value is the BLAKE2b digest of its text with the secret as key, 16 bytes as
hexadecimal digits. Without the secret it cannot be computed in either direction, so outputs, models
and pages hold no original ids. Callers of the scorer send keyed ids.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nightbid.anonymous import NO_USER_COLUMN, UserColumn
from nightbid.column_parsing import whole
from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.errors import ConfigError, CorruptDataError

LEAST_BYTES = 16
"""Minimum length of a secret in bytes; a shorter one could be guessed."""
DIGEST_BYTES = 16


@dataclass(frozen=True)
class UserKeyHasher:
    """Computes the keyed ids of a pipeline."""

    columns: tuple[str, ...]
    """Columns that contain user ids."""
    secret: bytes = field(repr=False)
    user: UserColumn = NO_USER_COLUMN
    """Column of the user. Its values that mean no user are not hashed."""

    @classmethod
    def of(cls, spec: PipelineSpec) -> UserKeyHasher | None:
        """Read the secret that a pipeline names; None if it names none.

        Raises:
            ConfigError: The secret is missing or shorter than 16 bytes.
        """
        block = spec.source.user_key
        if block is None:
            return None
        where = f"source.user_key: {block.env or block.file}"
        if block.env:
            secret = os.environ.get(block.env, "").encode()
        else:
            try:
                secret = Path(block.file).expanduser().read_bytes().strip()
            except OSError as error:
                raise ConfigError(
                    f"the secret cannot be read ({error.strerror})", where=where,
                    hint="mount it where tasks run, readable for their user",
                ) from error  # fmt: skip
        if len(secret) < LEAST_BYTES:
            fault = "the secret is not set"
            if secret:
                fault = f"the secret has {counted(len(secret), 'byte')}"
            raise ConfigError(
                fault, where=where, hint=f"use at least {LEAST_BYTES}: `openssl rand -hex 32`"
            )
        columns = tuple(dict.fromkeys((spec.columns.user, *block.columns)))
        return cls(columns, secret, UserColumn.of(spec.columns))

    @property
    def fingerprint(self) -> str:
        """Identifies the secret without revealing it; rows with another one are sampled again."""
        return self.one("fingerprint of the key")[:16]

    def one(self, value: str) -> str:
        """Return the keyed id of one value, given as text."""
        # Keys longer than BLAKE2b's maximum are hashed first, so that all of their bytes count.
        key = hashlib.blake2b(self.secret, digest_size=32).digest()
        return hashlib.blake2b(value.encode(), key=key, digest_size=DIGEST_BYTES).hexdigest()

    def many(self, values: Sequence[str]) -> list[str]:
        """Return the keyed ids of some values."""
        return [self.one(value) for value in values]

    def keyed(self, rows: pa.Table) -> pa.Table:
        """Replace the ids in a table; columns that it lacks are skipped.

        Args:
            rows: Rows with the ids of the logs.

        Raises:
            CorruptDataError: A column of ids has a type that cannot be an id, such as lists.
        """
        for name in self.columns:
            if name in rows.column_names:
                place = rows.column_names.index(name)
                rows = rows.set_column(place, name, self._column(rows[name], name))
        return rows

    def _column(self, column: pa.ChunkedArray, name: str) -> pa.Array:
        array = whole(column)
        if not pa.types.is_dictionary(array.type):
            try:
                array = array.dictionary_encode()
            except pa.ArrowException as error:
                raise CorruptDataError(
                    f"column {name!r} holds {column.type}, which is not an id type",
                    where="source.user_key",
                    hint="name columns of strings or integers",
                ) from error  # fmt: skip
        texts = array.dictionary
        if not pa.types.is_binary(texts.type):
            texts = pc.cast(texts, pa.string())
        kept = self.user.anonymous if name == self.user.name else ()
        known = [
            text if text is None or text in kept else self.one(text)
            for text in map(_text, texts.to_pylist())
        ]
        return pa.array(known, pa.string()).take(array.indices)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
