"""Trees see which items a list holds, in training and in the exported graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from nightbid.models.folder import ModelCard
from nightbid.models.layout import Layout
from nightbid.models.trees import columns_of, tree_matrix
from nightbid.night.progress import silent, unwatched
from nightbid.schema import FeatureSchema, ModelInput
from nightbid.serving.tree_graph import write_tree_onnx
from nightbid.training.data import Examples
from nightbid.training.trees import fit_trees
from sklearn.metrics import roc_auc_score

LARGE = 400


def lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


@pytest.fixture(scope="module")
def schema() -> FeatureSchema:
    return FeatureSchema(
        inputs=(
            ModelInput(name="ad", kind="id", feature="ad", size=20),
            ModelInput(name="topics", kind="bag", feature="topics", size=10, length=3),
            ModelInput(name="seen", kind="sequence", feature="seen", size=8, length=4),
            ModelInput(name="old", kind="sequence", feature="old", size=LARGE, length=2),
            ModelInput(
                name="shown", kind="bag", feature="shown", size=5, length=2, training_only=True
            ),
            ModelInput(name="price", kind="float", feature="price"),
        )
    )


@pytest.fixture(scope="module")
def table() -> pa.Table:
    draw = np.random.default_rng(1)
    count = 4000
    columns = {"ad": pa.array(draw.integers(0, 20, count).astype(np.int32))}
    for name, size, length in (("topics", 10, 3), ("seen", 8, 4), ("old", LARGE, 2),
                               ("shown", 5, 2)):  # fmt: skip
        ids = draw.integers(0, size, (count, length)).astype(np.int32)
        columns[name] = lists(ids)
        columns[f"{name}__weight"] = lists((ids > 0).astype(np.float32))
    columns["price"] = pa.array(draw.normal(size=count).astype(np.float32))
    return pa.table(columns)


def test_small_lists_become_indicator_columns_and_large_ones_their_length(schema, table) -> None:
    layout = Layout(schema)
    matrix = tree_matrix(layout, layout.pack(table, serving=False))
    assert [columns_of(lookup) for lookup in layout.lookups] == [1, 9, 7, 1, 4]
    assert matrix.shape == (4000, 1 + 9 + 7 + 1 + 4 + 1)
    topics = np.array(table["topics"].to_pylist())
    for item in range(1, 10):
        assert np.array_equal(matrix[:, item], (topics == item).any(axis=1))
    old = np.array(table["old"].to_pylist())
    assert np.array_equal(matrix[:, 17], (old > 0).sum(axis=1))


def test_trees_learn_list_items_and_their_export_agrees_to_1e_6(
    schema, table, tmp_path: Path
) -> None:
    layout = Layout(schema)
    held = (np.array(table["topics"].to_pylist()) == 7).any(axis=1)
    draw = np.random.default_rng(2)
    labels = (draw.random(len(held)) < np.where(held, 0.6, 0.1)).astype(np.float32)
    rows = Examples(
        inputs=layout.pack(table, serving=False),
        labels=labels,
        weights=np.ones_like(labels),
        given=np.ones_like(labels),
        seen=np.ones_like(labels),
    )
    card = ModelCard(
        architecture="gradient_boosted_trees", embedding_dim=1, embedding_l2=0.0,
        parameters={"trees": 40, "patience": 40}, prior=0.0, features=schema,
    )  # fmt: skip
    trees, _ = fit_trees(card, rows, rows, seed=0, progress=silent, watch=unwatched)
    predicted = trees.predict(table)
    assert roc_auc_score(held, predicted) > 0.99  # the number of items alone says nothing about it

    write_tree_onnx(trees, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    feed = {}
    for entry in session.get_inputs():
        column = table[entry.name]
        values = np.array(column.to_pylist()) if len(entry.shape) == 2 else column.to_numpy()
        feed[entry.name] = values.astype(np.float32 if "float" in entry.type else np.int32)
    served = session.run(["probability"], feed)[0]
    assert np.abs(served - predicted).max() < 1e-6
