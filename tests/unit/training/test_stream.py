"""Rows that do not fit in memory are read by row group, shuffled, and learned as well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.config.models import Model, Train
from nightbid.models.layout import Layout
from nightbid.schema import GIVEN, KEY, LABEL, WEIGHT, FeatureSchema, ModelInput
from nightbid.storage.workspace import file_digest
from nightbid.training.data import read_examples
from nightbid.training.memory import MemoryPlan
from nightbid.training.stage import run
from nightbid.training.stream import Stream

LAYOUT = Layout(
    FeatureSchema(
        inputs=(
            ModelInput(name="row", kind="id", feature="row", size=10_000),
            ModelInput(name="seen", kind="sequence", feature="seen", size=9, length=2),
            ModelInput(name="tags", kind="bag", feature="tags", size=9, length=2),
        )
    )
)
PLAN = MemoryPlan(rows=0, row_bytes=40, estimated_gb=1, limit_gb=1, streams=True)
TINY = 1e-4
"""Memory limit in GB that is too small for the rows of these tests."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write files of several row groups of unequal size; `row` numbers the rows."""
    root, start = tmp_path_factory.mktemp("rows"), 0
    for day, (count, size) in enumerate([(70, 32), (1, 1), (0, 1), (200, 64), (33, 33)]):
        row = np.arange(start, start + count, dtype=np.int32)
        pairs = [
            pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(row, 2).astype(kind)), 2)
            for kind in (np.int32, np.int32, np.float32)
        ]
        path = root / "split=train" / f"dt=2026-01-0{day + 1}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        table = pa.table(
            {KEY: row.astype(np.int64), LABEL: (row % 3 == 0).astype(np.float32),
             WEIGHT: row.astype(np.float32) + 1, "row": row, "seen": pairs[0], "tags": pairs[1],
             "tags__weight": pairs[2]}
        )  # fmt: skip
        if day == 3:  # only some files say whether the label's condition held
            table = table.append_column(GIVEN, pa.array((row % 5 > 0).astype(np.float32)))
        pq.write_table(table, path, row_group_size=size)
        start += count
    return root


@settings(max_examples=8)
@given(
    size=st.integers(3, 90),
    buffer=st.integers(40, 400),
    workers=st.integers(1, 3),
    first=st.integers(0, 4),
)
def test_stream_workers_read_each_row_once_and_resume_at_any_batch(
    folder, size, buffer, workers, first
):
    stream = Stream.of(folder, "train", LAYOUT, PLAN, serving=False)
    assert len(stream) == 304
    batches = [[] for _ in range(-(-304 // size))]
    for worker in range(workers):
        part_stream = replace(stream, buffer=buffer, worker=worker, workers=workers)
        read = list(part_stream.shuffled(size, seed=1, epoch=1))
        for at, batch in enumerate(read):
            batches[at].append(batch)
        for one, other in zip(
            part_stream.shuffled(size, seed=1, epoch=1, first=first), read[first:], strict=True
        ):
            assert (one.inputs.ids == other.inputs.ids).all()
    for at, parts in enumerate(batches):
        assert sum(map(len, parts)) == min(size, 304 - at * size)
    parts = [part for parts in batches for part in parts]
    rows = np.concatenate([part.inputs.ids for part in parts])
    assert sorted(rows[:, 0]) == list(range(304))
    assert (rows == rows[:, :1]).all()
    assert (np.concatenate([part.weights for part in parts]) == rows[:, 0] + 1).all()
    assert (np.concatenate([part.inputs.bag_weights for part in parts]) == rows[:, :2]).all()


def test_stream_epochs_differ_in_order_and_pieces_keep_file_order(folder):
    stream = Stream.of(folder, "train", LAYOUT, PLAN, serving=False)
    orders = [
        np.concatenate([e.inputs.ids[:, 0] for e in stream.shuffled(50, seed=1, epoch=epoch)])
        for epoch in (1, 2)
    ]
    assert (orders[0] != orders[1]).any()
    whole = read_examples(folder, "train", LAYOUT, serving=False)
    ids = np.concatenate([piece.inputs.ids for piece in stream.pieces()])
    assert (ids == whole.inputs.ids).all()
    conditions = np.concatenate([piece.given for piece in stream.pieces()])
    assert (conditions == whole.given).all()
    assert stream.given_rate == pytest.approx(whole.given_rate)
    assert stream.given_rate < 1
    assert (stream.weight, stream.rate) == (whole.weight, pytest.approx(whole.rate))
    half = stream.thinned(0.5)
    assert 100 < len(half) < 200
    assert sum(len(piece) for piece in half.pieces()) == len(half)


@pytest.mark.parametrize("architecture", ["dcn_v2", "gradient_boosted_trees"])
@pytest.mark.parametrize("calibration", ["platt", "rate"])
def test_streaming_training_reaches_the_same_loss(featurized, task_of, architecture, calibration):
    model = Model(architecture=architecture, embedding_dim=4, embedding_l2=1)
    if architecture == "gradient_boosted_trees":
        model = Model(architecture=architecture, parameters={"trees": 20})
    train = Train(batch_size=128, epochs=2, calibration=calibration)
    losses = []
    for name, limit in (("memory", None), ("stream", TINY if "dcn" in architecture else 5e-4)):
        task = task_of(
            featurized, model, train.model_copy(update={"memory_gb": limit}), output=name
        )
        outcome = run(task)
        memory = outcome.metrics["memory"]
        assert memory["streams"] == (limit is not None)
        assert memory["rows"] == outcome.rows.read == 10_000
        assert ("rows stream" in outcome.summary) == memory["streams"]
        losses.append(outcome.metrics["validation"]["log_loss"])
    assert losses[1] == pytest.approx(losses[0], abs=0.01)


def test_trees_from_a_stream_are_identical_and_tiny_memory_samples_rows(featurized, task_of):
    model = Model(architecture="gradient_boosted_trees", parameters={"trees": 20})
    digests = {}
    for name, limit in (("memory", None), ("stream", 5.5e-4), ("sample", 2e-4)):
        task = task_of(featurized, model, Train(memory_gb=limit), output=name)
        outcome = run(task)
        digests[name] = file_digest(task.output / "model" / "trees.txt")
        share = outcome.metrics["memory"].get("share", 1.0)
        assert (share < 1) == (name == "sample"), outcome.metrics["memory"]
        assert (f"rows stream of {share:.1%}" in outcome.summary) == (share < 1)
    assert digests["memory"] == digests["stream"] != digests["sample"]


def test_a_memory_limit_of_0_is_rejected():
    with pytest.raises(ValueError, match="greater than 0"):
        Train(memory_gb=0)
