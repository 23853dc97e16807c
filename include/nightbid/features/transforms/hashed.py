"""Transforms that hash values into buckets: no vocabulary, but collisions."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import joint_hashes
from nightbid.config.features import Cross, Hash
from nightbid.counts import counted
from nightbid.features.transforms.transform import Transform, implements, one_id
from nightbid.features.values import Int32s, RawColumns
from nightbid.schema import ModelInput

Bucketing = TypeVar("Bucketing", Hash, Cross)


def hashed(columns: list[tuple[Int32s, pa.Array]], buckets: int) -> Int32s:
    """Hash encoded columns together; int32 [rows], 0 if all values of a row are missing."""
    missing = np.logical_and.reduce([codes < 0 for codes, _ in columns])
    ids = 1 + (joint_hashes(columns) % np.uint64(buckets)).astype(np.int64)
    return np.where(missing, 0, ids).astype(np.int32)


class Hashed(Transform[Bucketing]):
    """Values of one or several columns, hashed together."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one id."""
        return (one_id(self.name, self.feature.buckets + 1, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        columns = [raw.encoded(name, self.name) for name in self.feature.sources(self.name)]
        return {self.name: pa.array(hashed(columns, self.feature.buckets))}


@implements(Hash)
class HashTransform(Hashed[Hash]):
    """Hash of one value."""

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return f"hashed into {counted(self.feature.buckets, 'bucket')}"


@implements(Cross)
class CrossTransform(Hashed[Cross]):
    """Joint hash of several values."""

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return f"hashed together into {counted(self.feature.buckets, 'bucket')}"
