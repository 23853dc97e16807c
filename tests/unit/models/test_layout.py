"""Tests the layout of featurized columns in matrices."""

from __future__ import annotations

import numpy as np
import pytest
from nightbid.errors import MissingDataError
from nightbid.models.layout import Layout


def test_inputs_share_embedding_rows_only_within_one_vocabulary(schema):
    layout = Layout(schema)
    assert layout.rows_of("ad") == layout.rows_of("seen")
    spans = sorted({layout.rows_of(lookup.name) for lookup in layout.lookups})
    ends = [start + size for start, size in spans]
    assert [start for start, _ in spans] == [0, *ends[:-1]]
    assert layout.table_rows == ends[-1] == 40 + 20 + 10 + 6


def test_columns_are_packed_at_the_places_of_the_layout(schema, rows):
    layout = Layout(schema)
    packed = layout.pack(rows, serving=False)
    assert packed.ids.shape == (500, 1 + 1 + 3 + 4 + 1)
    assert (packed.ids[:, layout.places["user"]].ravel() == rows["user"].to_numpy()).all()
    seen = np.array(rows["seen"].to_pylist())
    assert (packed.ids[:, layout.places["seen"]] == seen).all()
    assert (packed.numbers[:, 0] == rows["price"].to_numpy()).all()
    assert (packed.bag_weights == np.array(rows["topics__weight"].to_pylist(), np.float32)).all()


def test_a_slice_of_a_table_packs_like_the_whole(schema, rows):
    layout = Layout(schema)
    whole, part = layout.pack(rows, serving=False), layout.pack(rows.slice(7, 50), serving=False)
    assert (whole.ids[7:57] == part.ids).all()
    assert (whole.bag_weights[7:57] == part.bag_weights).all()


def test_training_only_inputs_are_constant_at_serving(schema, rows):
    layout = Layout(schema)
    place = layout.places["place"]
    assert layout.pack(rows, serving=False).ids[:, place].all()
    served = layout.pack(rows.drop_columns(["place"]), serving=True)
    assert not served.ids[:, place].any()


def test_a_missing_input_is_reported_by_name(schema, rows):
    with pytest.raises(MissingDataError, match="'price' is missing"):
        Layout(schema).pack(rows.drop_columns(["price"]), serving=True)
