"""Lazy Adam takes Adam's steps where all rows are used, and none where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from nightbid.models.runtime import tensorflow


def sparse_step(optimizer, table, rows, values, rate=0.1):
    tf = tensorflow()
    gradient = tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), table.shape)
    optimizer.apply([gradient], tf.constant(rate))


def test_unused_table_rows_do_not_change():
    tf = tensorflow()
    from nightbid.training.adam import LazyAdam

    start = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    table = tf.Variable(start)
    optimizer = LazyAdam([table])
    sparse_step(optimizer, table, [1, 4, 1], np.ones((3, 3)))
    sparse_step(optimizer, table, [4], np.ones((1, 3)))
    used = [1, 4]
    unused = [0, 2, 3, 5]
    assert (table.numpy()[unused] == start[unused]).all()
    assert (optimizer.first[0].numpy()[unused] == 0).all()
    assert (optimizer.second[0].numpy()[unused] == 0).all()
    assert (table.numpy()[used] != start[used]).all()


def test_gradients_of_repeated_rows_are_summed():
    tf = tensorflow()
    from nightbid.training.adam import LazyAdam

    apart, together = (
        tf.Variable(np.ones((3, 2), np.float32)),
        tf.Variable(np.ones((3, 2), np.float32)),
    )
    one, two = LazyAdam([apart]), LazyAdam([together])
    sparse_step(one, apart, [1, 1, 1], [[1, 2], [3, 4], [-1, 0.5]])
    sparse_step(two, together, [1], [[3, 6.5]])
    assert (apart.numpy() == together.numpy()).all()


def test_lazy_adam_equals_adam_when_every_batch_uses_all_rows():
    tf = tensorflow()
    import keras
    from nightbid.training.adam import LazyAdam

    draw = np.random.default_rng(2)
    start = draw.normal(size=(4, 2)).astype(np.float32)
    lazy, dense = tf.Variable(start), tf.Variable(start)
    keras_table = keras.Variable(start)
    lazy_adam, dense_adam = LazyAdam([lazy]), LazyAdam([dense])
    reference = keras.optimizers.Adam(0.05, epsilon=1e-7)
    reference.build([keras_table])
    for _ in range(20):
        gradient = draw.normal(size=(4, 2)).astype(np.float32)
        sparse_step(lazy_adam, lazy, [0, 1, 2, 3], gradient, 0.05)
        dense_adam.apply([tf.constant(gradient)], tf.constant(0.05))
        reference.apply([tf.constant(gradient)], [keras_table])
    assert lazy.numpy() == pytest.approx(dense.numpy(), abs=1e-6)
    assert lazy.numpy() == pytest.approx(np.asarray(keras_table), abs=1e-5)


def test_lazy_weight_averages_equal_dense_averages():
    tf = tensorflow()
    from nightbid.training.adam import LazyAdam

    draw = np.random.default_rng(4)
    table = tf.Variable(draw.normal(size=(5, 2)).astype(np.float32))
    initial = table.numpy()
    optimizer = LazyAdam([table], tables=[True], average=0.9)
    mean = np.zeros((5, 2))
    for rows in ([0, 1], [1], [1, 3], [0], [3, 3], [1]):
        sparse_step(optimizer, table, rows, draw.normal(size=(len(rows), 2)))
        mean = 0.9 * mean + 0.1 * table.numpy()
    (averaged,) = optimizer.averaged()
    assert averaged == pytest.approx(mean / (1 - 0.9**6), abs=1e-6)
    assert averaged[[2, 4]] == pytest.approx(initial[[2, 4]], abs=1e-7)


def test_resetting_a_table_clears_moments_and_restarts_its_average():
    tf = tensorflow()
    from nightbid.training.adam import LazyAdam

    draw = np.random.default_rng(5)
    initial = draw.normal(size=(4, 2)).astype(np.float32)
    table = tf.Variable(np.zeros((4, 2), np.float32))
    optimizer = LazyAdam([table], tables=[True], average=0.9)
    for _ in range(3):
        sparse_step(optimizer, table, [0, 2], draw.normal(size=(2, 2)))
    optimizer.reset(0, initial)
    optimizer.began.assign(optimizer.step)
    assert not optimizer.first[0].numpy().any()
    assert not optimizer.second[0].numpy().any()
    mean = np.zeros((4, 2))
    for rows in ([1], [1, 2], [3]):
        sparse_step(optimizer, table, rows, draw.normal(size=(len(rows), 2)))
        mean = 0.9 * mean + 0.1 * table.numpy()
    assert optimizer.averaged()[0] == pytest.approx(mean / (1 - 0.9**3), abs=1e-6)
    assert table.numpy()[0] == pytest.approx(initial[0])
