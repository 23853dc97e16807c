"""TensorFlow, set up once per process: deterministic, with few threads."""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

THREADS = 2
"""The order of a sum depends on how it is split: a fixed number gives the same bits anywhere."""


@cache
def tensorflow() -> ModuleType:
    """Import and configure TensorFlow; the first call takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    except RuntimeError:
        # Somebody computed with it before: its threads are what they are.
        pass
    tf.config.experimental.enable_op_determinism()
    return tf  # type: ignore[no-any-return]
