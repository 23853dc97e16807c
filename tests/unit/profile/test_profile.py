"""Merged profiles of parts equal the profile of the whole, byte for byte."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.errors import CorruptDataError
from nightbid.profile import Profile
from nightbid.profile.bins import number_bins, number_edges
from nightbid.profile.exact import ExactSum

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)


def table(rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    start = 1_767_225_600_000_000
    return pa.table(
        {
            "nb_key": random.integers(-(2**62), 2**62, rows),
            "nb_label": (random.random(rows) < 0.2).astype("f4"),
            "nb_weight": random.choice(np.array([1, 3.3], "f4"), rows),
            "nb_time": pa.array(
                start + random.integers(0, 86_400_000_000, rows), pa.timestamp("us", "UTC")
            ),
            "price": np.where(random.random(rows) < 0.1, np.nan, random.lognormal(size=rows)),
            "ad": pa.array(random.integers(0, 3000, rows).astype(str)),
            "os": pa.array(random.choice(["ios", "android"], rows)).dictionary_encode(),
            "ids": pa.FixedSizeListArray.from_arrays(
                pa.array(random.integers(0, 50, rows * 3).astype("i4")), 3
            ),
            "click": random.integers(0, 2, rows),
            "conversion": random.random(rows) < 0.1,
            "nothing": pa.nulls(rows),
        }
    )


def saved(profile: Profile, folder) -> bytes:
    profile.save(folder / "p.json")
    return (folder / "p.json").read_bytes()


@pytest.mark.slow
@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 3000), min_size=1, max_size=4), flip=st.booleans())
def test_merged_profiles_do_not_depend_on_split_or_order(tmp_path_factory, cuts, flip):
    folder = tmp_path_factory.mktemp("profile")
    whole = table(3000)
    edges = [0, *sorted(cuts), 3000]
    parts = [Profile.of(whole.slice(low, high - low)) for low, high in pairwise(edges)]
    if flip:
        merged = Profile()
        for part in reversed(parts):
            merged = part.merge(merged)
    else:
        merged = parts[0].merge(parts[1])
        for part in parts[2:]:
            merged = merged.merge(part)
    assert saved(merged, folder) == saved(Profile.of(whole), folder)


def test_a_profile_survives_saving_and_loading(tmp_path):
    profile = Profile.of(table(500))
    before = saved(profile, tmp_path)
    assert saved(Profile.load(tmp_path / "p.json"), tmp_path) == before


def test_a_truncated_profile_is_rejected_with_its_file_name(tmp_path):
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(CorruptDataError, match=r"p\.json"):
        Profile.load(tmp_path / "p.json")


@given(values=st.lists(FLOATS, max_size=40))
def test_sums_are_exact(values):
    array = np.array(values, np.float64)
    total = ExactSum.of(array, np.ones(len(array), np.int64))
    assert total.fraction == sum((Fraction(value) for value in values), Fraction(0))
    assert ExactSum.from_json(total.to_json()) == total


@given(values=st.lists(FLOATS, min_size=1, max_size=40))
def test_number_bins_keep_the_order_and_contain_their_values(values):
    array = np.sort(np.array(values, np.float64)) + 0.0
    keys = number_bins(array)
    assert (np.diff(keys) >= 0).all()
    low, high = number_edges(keys)
    assert (low <= array).all()
    assert (array <= high).all()


def test_mean_std_and_quantiles_match_numpy():
    rows = table(4000)
    price = Profile.of(rows).columns["price"]
    values = rows["price"].to_numpy()
    finite = values[~np.isnan(values)]
    assert price.nan == int(np.isnan(values).sum())
    assert price.mean == pytest.approx(math.fsum(finite) / len(finite), rel=1e-15)
    assert price.std == pytest.approx(finite.std(), rel=1e-12)
    for share in (0.05, 0.5, 0.95):
        assert price.quantile(share) == pytest.approx(np.quantile(finite, share), rel=0.035)


@pytest.mark.parametrize("sentinel", [np.finfo(np.float64).max, -1e300, 1e155])
def test_numbers_whose_squares_overflow_are_profiled(tmp_path, sentinel):
    """Logs may mark missing numbers with huge values; a gate must report them, not fail."""
    values = np.append(np.ones(999), sentinel)
    profile = Profile.of(pa.table({"price": values}))
    saved(profile, tmp_path)
    price = Profile.load(tmp_path / "p.json").columns["price"]
    assert price.mean == pytest.approx(sentinel / 1000)
    assert 1e150 < price.std < np.inf
    assert price.quantile(0.5) == 1


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.string()])
def test_columns_of_empty_lists_are_profiled(kind):
    lists = pa.array([[], None, []], pa.list_(kind))
    column = Profile.of(pa.table({"tags": lists})).columns["tags"]
    assert (column.rows, column.nulls, column.values) == (3, 1, 0)


def test_distinct_counts_are_exact_for_few_values_and_close_for_many():
    rows = pa.table({"few": np.arange(5000) % 900, "many": np.arange(5000) * 7})
    profile = Profile.of(rows)
    assert profile.columns["few"].distinct == 900
    assert profile.columns["many"].distinct == pytest.approx(5000, rel=0.1)


def test_duplicates_within_and_across_batches_are_counted():
    keys = pa.table({"nb_key": np.arange(1000) * 977})
    assert Profile.of(keys).duplicate_share == 0
    again = Profile.of(keys).merge(Profile.of(keys.slice(0, 100)))
    assert again.duplicate_share == pytest.approx(100 / 1100)


def test_label_rate_is_weighted():
    rows = pa.table(
        {
            "nb_label": pa.array([1, 0, 0], pa.float32()),
            "nb_weight": pa.array([1, 4.5, 4.5], pa.float32()),
        }
    )
    assert Profile.of(rows).label_rate == pytest.approx(0.1)


def test_conversions_without_a_click_are_counted_as_contradictions():
    rows = pa.table({"click": [1, 0, 1], "conversion": [1, 1, 0]})
    assert Profile.of(rows).contradictions == {
        "click without conversion": 1,
        "conversion without click": 1,
    }


def test_profiles_of_different_column_types_cannot_be_merged():
    number, text = pa.table({"price": [1.0]}), pa.table({"price": ["1.0"]})
    with pytest.raises(CorruptDataError, match="price"):
        Profile.of(number).merge(Profile.of(text))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 2**64 - 1], pa.uint64()),
        pa.array([1, 1_767_225_600_000_000_001], pa.timestamp("ns", "UTC")),
        pa.array([np.float16(0.5), np.float16("nan")], pa.float16()),
        pa.array(["a", None], pa.string_view()),
    ],
    ids=lambda array: str(array.type),
)
def test_uncommon_arrow_types_are_profiled(tmp_path, column):
    profile = Profile.of(pa.table({"it": column, "other": column}))
    saved(profile.merge(profile), tmp_path)
    assert Profile.load(tmp_path / "p.json").columns["it"].rows == 4
