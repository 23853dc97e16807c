"""Fit DeepCTR's own DCN with full matrices, Adam and `fit`, on tf_keras."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
from deepctr.feature_column import DenseFeat, SparseFeat, VarLenSparseFeat
from deepctr.models import DCN
from job import THREADS, Job, Rows, main

tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(THREADS)


def inputs(job: Job, rows: Rows) -> dict[str, np.ndarray]:
    columns = {"numbers": rows.numbers}
    for field in job.fields:
        ids = rows.ids[:, field.first : field.first + field.width]
        columns[field.name] = ids if field.width > 1 else ids[:, 0]
    return columns


def fit(job: Job, train: Rows):
    tf.keras.utils.set_random_seed(0)
    columns = [DenseFeat("numbers", train.numbers.shape[1])]
    for field in job.fields:
        column = SparseFeat(field.name, field.size, embedding_dim=job.dim)
        columns.append(
            VarLenSparseFeat(column, field.width, combiner="mean")
            if field.kind == "bag"
            else column
        )
    # DeepCTR needs at least one linear column; the numbers have one weight each.
    model = DCN(columns[:1], columns, cross_num=job.crosses, cross_parameterization="matrix",
                dnn_hidden_units=job.hidden, l2_reg_linear=0, l2_reg_embedding=0,
                l2_reg_cross=0)  # fmt: skip
    model.compile(tf.keras.optimizers.Adam(job.learning_rate), "binary_crossentropy")
    data = inputs(job, train)
    head = {name: values[: job.batch] for name, values in data.items()}
    model.fit(head, train.labels[: job.batch], batch_size=job.batch, verbose=0)

    def run() -> None:
        model.fit(data, train.labels, batch_size=job.batch, epochs=job.epochs, verbose=0)

    def score(rows: Rows) -> np.ndarray:
        return model.predict(inputs(job, rows), batch_size=16384, verbose=0)

    return run, score


if __name__ == "__main__":
    main(fit)
