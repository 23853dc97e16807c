"""Transform of the words of a text and of word n-grams."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode, joint_hashes
from nightbid.config.features import TextNgrams
from nightbid.counts import counted
from nightbid.features.transforms.transform import Transform, bag_columns, implements, one_list
from nightbid.features.values import Int32s, Items, RawColumns
from nightbid.schema import ModelInput


@implements(TextNgrams)
class NgramTransform(Transform[TextNgrams]):
    """Words and n-grams of a text, hashed into a bag; shorter n-grams come first."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one bag."""
        feature = self.feature
        return (one_list(self, "bag", feature.buckets + 1, feature.length),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        codes, tokens = raw.encoded(self.column, self.name)
        matrix = np.append(
            self._of_texts(tokens), np.zeros((1, self.feature.length), np.int32), axis=0
        )
        return bag_columns(self.name, matrix[codes])

    def _of_texts(self, texts: pa.Array) -> Int32s:
        words = Items.of(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts))))
        word_hashes = joint_hashes([encode(words.flat)])
        matrix = np.zeros((len(texts), self.feature.length), np.int32)
        filled = np.zeros(len(texts), np.int64)
        joint = np.zeros(len(word_hashes), np.uint64)
        for length in range(1, self.feature.ngrams + 1):
            # joint[i] covers the words i … i + length - 1; n-grams across two texts are dropped.
            size = max(len(word_hashes) - length + 1, 0)
            joint = joint[:size] * np.uint64(0x9E3779B97F4A7C15) + word_hashes[length - 1 :]
            joint ^= joint >> np.uint64(32)
            inside = words.rows[:size] == words.rows[length - 1 :]
            rows, places = words.rows[:size], words.places[:size] + filled[words.rows[:size]]
            keep = inside & (places < self.feature.length)
            ids = 1 + (joint % np.uint64(self.feature.buckets)).astype(np.int64)
            matrix[rows[keep], places[keep]] = ids[keep]
            filled += np.maximum(words.counts - length + 1, 0)
        return matrix

    @property
    def makes(self) -> str:
        """Description of the computation."""
        feature = self.feature
        runs = f" and runs of up to {feature.ngrams}" if feature.ngrams > 1 else ""
        words, buckets = counted(feature.length, "word"), counted(feature.buckets, "bucket")
        return f"first {words}{runs}, hashed into {buckets}"
