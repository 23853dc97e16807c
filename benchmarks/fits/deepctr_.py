"""DeepCTR's own DCN, matrices full, with Adam and `fit`, on tf_keras."""

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
    found = {"numbers": rows.numbers}
    for each in job.fields:
        mine = rows.ids[:, each.first : each.first + each.width]
        found[each.name] = mine if each.width > 1 else mine[:, 0]
    return found


def fit(job: Job, train: Rows):
    tf.keras.utils.set_random_seed(0)
    columns = [DenseFeat("numbers", train.numbers.shape[1])]
    for each in job.fields:
        column = SparseFeat(each.name, each.size, embedding_dim=job.dim)
        columns.append(
            VarLenSparseFeat(column, each.width, combiner="mean") if each.kind == "bag" else column
        )
    # Without any linear column it cannot be built: the numbers have one weight each.
    model = DCN(columns[:1], columns, cross_num=job.crosses, cross_parameterization="matrix",
                dnn_hidden_units=job.hidden, l2_reg_linear=0, l2_reg_embedding=0,
                l2_reg_cross=0)  # fmt: skip
    model.compile(tf.keras.optimizers.Adam(job.learning_rate), "binary_crossentropy")
    data = inputs(job, train)
    head = {name: each[: job.batch] for name, each in data.items()}
    model.fit(head, train.labels[: job.batch], batch_size=job.batch, verbose=0)

    def run() -> None:
        model.fit(data, train.labels, batch_size=job.batch, epochs=job.epochs, verbose=0)

    def score(rows: Rows) -> np.ndarray:
        return model.predict(inputs(job, rows), batch_size=16384, verbose=0)

    return run, score


if __name__ == "__main__":
    main(fit)
