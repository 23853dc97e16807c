"""Every architecture builds from any schema, can be saved, and scores the same when loaded."""

from __future__ import annotations

import random
import threading
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from nightbid.errors import CorruptDataError
from nightbid.models.calibration import Calibration
from nightbid.models.folder import ModelCard, save_card, save_weights
from nightbid.models.layout import column_values
from nightbid.models.predict import load_model
from nightbid.models.registry import find, names
from nightbid.models.runtime import tensorflow
from nightbid.schema import FeatureSchema, ModelInput

NETWORKS = [name for name in names() if find(name).engine == "tensorflow"]


def network_of(name, schema, **parameters):
    tensorflow()
    from nightbid.models.network import Network

    tasks = {}
    if find(name).multi_task:
        # σ(-1)·σ(b) equals σ(-2) for this b.
        tasks = {"tasks": ("click", "conversion"), "task_priors": (-1.0, -0.22773)}
    card = ModelCard(
        **tasks,
        architecture=name,
        embedding_dim=4,
        parameters=find(name).parameters(parameters),
        prior=-2.0,
        features=schema,
    )
    return Network(card, seed=5)


def disturb(network):
    draw = np.random.default_rng(0)
    network.assign(
        {
            name: (weight + draw.normal(0, 0.3, weight.shape)).astype(weight.dtype)
            if weight.dtype == np.float32
            else weight
            for name, weight in network.weights().items()
        }
    )


class Scored(NamedTuple):
    """A network with changed weights; a network takes longer to build than its tests."""

    network: Any
    untrained: np.ndarray
    """Scores of its initial weights."""
    scores: np.ndarray


@pytest.fixture(scope="module")
def scored(schema, rows):
    """Return the network of an architecture, built once."""

    @cache
    def build(name):
        network = network_of(name, schema)
        untrained = network.predict(rows)
        disturb(network)
        return Scored(network, untrained, network.predict(rows))

    return build


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_model_gives_identical_scores_after_loading(name, scored, rows, tmp_path):
    network, _, scores = scored(name)
    save_card(network.card, tmp_path)
    save_weights(network.weights(), tmp_path)
    assert scores.shape == (500,)
    assert scores.dtype == np.float64
    assert len(np.unique(scores)) > 100
    assert (load_model(tmp_path).predict(rows) == scores).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_onnx_export_gives_the_same_calibrated_scores(
    name, scored, rows, tmp_path, monkeypatch
):
    from nightbid.serving.graph import signature, write_onnx

    network, _, scores = scored(name)
    curve = Calibration(slope=0.9, intercept=0.2, knots=((-3, -2.5), (-2, -2.2), (-1, 0.5)))
    monkeypatch.setattr(network, "card", network.card.model_copy(update={"calibration": curve}))
    write_onnx(network, tmp_path / "model.onnx")
    served = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    input_names = {entry.name for entry in served.get_inputs()}
    feed = {
        column.name: column_values(rows[column.name], column.dtype.as_numpy_dtype).reshape(
            [len(rows), *column.shape[1:]]
        )
        for column in signature(network.layout)
        if column.name in input_names
    }
    logits = np.log(scores / (1 - scores))
    expected = 1 / (1 + np.exp(-curve.logits(logits)))
    assert served.run(["probability"], feed)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["autoint", "esmm"])
def test_exports_of_one_process_have_the_same_bytes(name, scored, tmp_path):
    """The converter's counters advance from graph to graph."""
    from nightbid.serving.graph import write_onnx

    for file in ("model.onnx", "again.onnx"):
        write_onnx(scored(name).network, tmp_path / file)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_untrained_model_predicts_about_the_prior(name, scored):
    assert scored(name).untrained.mean() == pytest.approx(1 / (1 + np.exp(2)), abs=0.02)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["id", "float"])
def test_a_model_works_with_a_single_input(name, kind):
    schema = FeatureSchema(inputs=(ModelInput(name="x", kind=kind, feature="x", size=3),))
    column = pa.array([0, 1, 2], pa.int32() if kind == "id" else pa.float32())
    assert np.isfinite(network_of(name, schema).predict(pa.table({"x": column}))).all()


def test_ranking_does_not_depend_on_the_position(schema, rows):
    network = network_of("dcn_v2", schema)
    disturb(network)
    place = rows.column_names.index("place")
    elsewhere = rows.set_column(place, "place", pa.array(np.full(500, 3, np.int32)))
    assert (network.predict(rows) == network.predict(elsewhere)).all()


def test_padding_of_sequences_and_bags_does_not_change_scores(schema):
    network = network_of("deep", schema)
    disturb(network)

    def row(topics, weights, seen):
        return pa.table(
            {
                "user": pa.array([1], pa.int32()),
                "ad": pa.array([2], pa.int32()),
                "price": pa.array([0.5], pa.float32()),
                "topics": pa.array([topics], pa.list_(pa.int32(), 3)),
                "topics__weight": pa.array([weights], pa.list_(pa.float32(), 3)),
                "seen": pa.array([seen], pa.list_(pa.int32(), 4)),
            }
        )

    one = network.predict(row([4, 0, 0], [1, 0, 0], [7, 0, 0, 0]))
    same = network.predict(row([0, 0, 4], [0, 0, 1], [7, 7, 7, 7]))
    other = network.predict(row([4, 0, 0], [1, 0, 0], [8, 0, 0, 0]))
    assert one == pytest.approx(same, abs=1e-6)
    assert abs(one - other) > 1e-4


def test_pairwise_products_sum_over_all_pairs():
    tf = tensorflow()
    from nightbid.models.layers import pairwise

    vectors = np.random.default_rng(1).normal(size=(3, 5, 4)).astype(np.float32)
    pairs = [
        sum(vectors[row, i] @ vectors[row, j] for i in range(5) for j in range(i + 1, 5))
        for row in range(3)
    ]
    assert pairwise(tf.constant(vectors)).numpy().ravel() == pytest.approx(pairs, rel=1e-4)


def test_initial_weights_do_not_depend_on_random_draws_of_other_threads(schema):
    # The usage meter does this: each of its uploads to Cloud Storage draws a random number.
    expected = network_of("dcn_v2", schema).weights()
    ended = threading.Event()

    def draw():
        while not ended.wait(1e-4):
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        weights = network_of("dcn_v2", schema).weights()
    finally:
        ended.set()
        thread.join()
    assert {name for name, weight in weights.items() if (weight != expected[name]).any()} == set()


def test_weights_of_another_shape_are_rejected(schema, tmp_path):
    network = network_of("deep", schema)
    save_card(network.card.model_copy(update={"embedding_dim": 6}), tmp_path)
    save_weights(network.weights(), tmp_path)
    with pytest.raises(CorruptDataError, match="do not fit deep"):
        load_model(tmp_path)


def test_truncated_weights_are_rejected(schema, tmp_path):
    network = network_of("deep", schema)
    save_card(network.card, tmp_path)
    save_weights(network.weights(), tmp_path)
    path = tmp_path / "weights.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptDataError, match="unreadable weights"):
        load_model(tmp_path)
