"""Hashes of keys and tokens equal those of pandas, without needing pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from nightbid.hashing import integer_hashes, text_hashes, text_hashes_of_numpy


@given(st.lists(st.text(max_size=40), max_size=30))
def test_text_hashes_match_pandas(values):
    texts = np.array(values, object)
    expected = pd.util.hash_array(texts, categorize=False)
    assert (text_hashes_of_numpy(texts) == expected).all()
    assert (text_hashes(texts) == expected).all()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_integer_hashes_match_pandas(values):
    numbers = np.array(values, np.int64)
    assert (integer_hashes(numbers) == pd.util.hash_array(numbers)).all()
