"""Attributes of sampled users and items, merged and compared between days."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.profile import Profile
from nightbid.profile.attributes import Attributes


def day(seed: int, *, stale: float = 0.0, rows: int = 3000) -> pa.Table:
    """Make 1,000 users with one age each; the price does not depend on them."""
    random = np.random.default_rng(seed)
    user = random.integers(0, 1000, rows)
    other = np.where(random.random(rows) < stale, random.integers(0, 1000, rows), user)
    return pa.table(
        {
            "user_id": [f"u{number}" for number in user],
            "age": pa.array([f"{number * 7919 % 6}0s" for number in other]).dictionary_encode(),
            "height": np.where(other % 3 == 0, None, other % 50).astype(object).tolist(),
            "price": random.random(rows),
            "interests": [["a"]] * rows,
        }
    )


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 400), max_size=4), flip=st.booleans())
def test_merged_attribute_samples_do_not_depend_on_split_or_order(
    cuts: list[int], flip: bool
) -> None:
    table = day(1, rows=400)
    edges = [0, *sorted(cuts), 400]
    parts = [table.slice(a, b - a) for a, b in pairwise(edges)]
    whole = Attributes()
    for part in reversed(parts) if flip else parts:
        whole = whole.merge(Attributes.of(part, "user_id", 50), 50)
    assert whole.to_json() == Attributes.of(table, "user_id", 50).to_json()


def test_stable_attributes_agree_between_days() -> None:
    monday, tuesday = (Attributes.of(day(seed), "user_id") for seed in (1, 2))
    for name in ("age", "height"):
        share, common = monday.agreement(tuesday, name)
        assert share == 1.0
        assert common > 100
    share, _ = monday.agreement(tuesday, "price")
    assert share == 0.0
    assert "interests" not in monday.columns
    assert monday.agreement(tuesday, "shoe_size") is None


def test_a_stale_join_lowers_the_agreement_between_days() -> None:
    share, _ = Attributes.of(day(1), "user_id").agreement(
        Attributes.of(day(2, stale=1.0), "user_id"), "age"
    )
    assert share < 0.4


def test_attributes_survive_saving_and_loading_a_profile(tmp_path) -> None:
    profile = Profile.of(day(1), ("user_id", "nobody"))
    profile.save(tmp_path / "a.json")
    again = Profile.load(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert len(again.attributes["user_id"].entities) == 256
    assert len(again.attributes["nobody"].entities) == 0
