"""Tests how training reads featurized rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.errors import MissingDataError
from nightbid.models.layout import BLOCK, Layout
from nightbid.schema import GIVEN, LABEL, WEIGHT, FeatureSchema, ModelInput
from nightbid.training.data import read_examples

LAYOUT = Layout(
    FeatureSchema(
        inputs=(
            ModelInput(name="ad", kind="id", feature="ad", size=900),
            ModelInput(name="price", kind="float", feature="price"),
            ModelInput(name="tags", kind="bag", feature="tags", size=9, length=3),
            ModelInput(name="place", kind="id", feature="place", size=5, training_only=True),
        )
    )
)


def rows(count: int, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)

    def lists(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3)

    return pa.table(
        {
            LABEL: (draw.random(count) < 0.2).astype(np.float32),
            WEIGHT: draw.uniform(1, 9, count).astype(np.float32),
            "ad": draw.integers(0, 900, count).astype(np.int32),
            "price": draw.normal(size=count).astype(np.float32),
            "tags": lists(draw.integers(0, 9, (count, 3)).astype(np.int32)),
            "tags__weight": lists(draw.random((count, 3)).astype(np.float32)),
            "place": draw.integers(1, 5, count).astype(np.int32),
        }
    )


@pytest.fixture
def folder(tmp_path):
    """Write days of unequal size; one is empty, and one is longer than a block."""
    for day, count in enumerate((70, 0, BLOCK + 3, 1)):
        path = tmp_path / "split=train" / f"dt=2026-01-0{day + 1}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(rows(count, day), path)
    return tmp_path


@pytest.mark.parametrize("serving", [False, True])
def test_examples_contain_every_value_of_every_file(folder, serving):
    examples = read_examples(folder, "train", LAYOUT, serving=serving)
    table = pa.concat_tables(rows(count, day) for day, count in enumerate((70, 0, BLOCK + 3, 1)))
    place = np.zeros(len(table)) if serving else table["place"].to_numpy()
    tags = np.array(table["tags"].to_pylist())
    expected = np.column_stack([table["ad"].to_numpy(), tags, place])
    assert (examples.inputs.ids == expected).all()
    assert (examples.inputs.numbers[:, 0] == table["price"].to_numpy()).all()
    weights = np.array(table["tags__weight"].to_pylist(), np.float32)
    assert (examples.inputs.bag_weights == weights).all()
    assert (examples.labels == table[LABEL].to_numpy()).all()
    assert (examples.weights == table[WEIGHT].to_numpy()).all()
    assert examples.given.all()


def test_the_given_mask_is_read_from_files_that_have_it(folder):
    path = folder / "split=train" / "dt=2026-01-05" / "part-00000.parquet"
    path.parent.mkdir()
    given = np.array([0, 1, 0, 1], np.float32)
    pq.write_table(rows(4, 9).append_column(GIVEN, pa.array(given)), path)
    given_mask = read_examples(folder, "train", LAYOUT, serving=False).given
    assert given_mask[:-4].all()
    assert (given_mask[-4:] == given).all()


def test_a_missing_input_column_is_reported_by_name(folder):
    path = folder / "split=train" / "dt=2026-01-03" / "part-00000.parquet"
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["price"]), path)
    with pytest.raises(MissingDataError, match="'price' is missing"):
        read_examples(folder, "train", LAYOUT, serving=False)
