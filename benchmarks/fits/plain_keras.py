"""Fit idiomatic Keras 3: an Embedding per input, Adam, `fit` on arrays."""

import keras
import numpy as np
import tensorflow as tf
from job import THREADS, Job, Rows, main
from keras import ops

tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(THREADS)


def fit(job: Job, train: Rows):
    keras.utils.set_random_seed(0)
    ids = keras.Input((train.ids.shape[1],), dtype="int32")
    numbers = keras.Input((train.numbers.shape[1],))
    parts = []
    for field in job.fields:
        field_ids = ids[:, field.first : field.first + field.width]
        vectors = keras.layers.Embedding(field.size, job.dim)(field_ids)
        if field.kind == "bag":
            mask = ops.expand_dims(ops.cast(ops.not_equal(field_ids, 0), "float32"), -1)
            filled = ops.maximum(ops.sum(mask, axis=1), 1.0)
            parts.append(ops.sum(vectors * mask, axis=1) / filled)
        else:
            parts.append(vectors[:, 0])
    x0 = ops.concatenate([*parts, numbers], axis=-1)
    x = x0
    for _ in range(job.crosses):
        x = x0 * keras.layers.Dense(x0.shape[-1])(x) + x
    deep = x0
    for units in job.hidden:
        deep = keras.layers.Dense(units, activation="relu")(deep)
    output = keras.layers.Dense(1, activation="sigmoid")(ops.concatenate([x, deep], axis=-1))
    model = keras.Model([ids, numbers], output)
    model.compile(keras.optimizers.Adam(job.learning_rate), "binary_crossentropy")
    head = slice(0, job.batch)
    model.fit([train.ids[head], train.numbers[head]], train.labels[head], job.batch, verbose=0)

    def run() -> None:
        model.fit([train.ids, train.numbers], train.labels, job.batch, job.epochs, verbose=0)

    def score(rows: Rows) -> np.ndarray:
        return model.predict([rows.ids, rows.numbers], batch_size=16384, verbose=0)

    return run, score


if __name__ == "__main__":
    main(fit)
