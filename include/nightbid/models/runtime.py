"""TensorFlow, set up once per process: deterministic, with few threads."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

THREADS = 2
"""The order of a sum depends on how it is split: a fixed number gives the same bits anywhere."""


CHATTER = (
    b"absl::InitializeLog",
    b"cudart_stub",
    b"cuda_platform",
    b"cpu_feature_guard",
    b"oneDNN custom operations",
)
"""What TensorFlow tells every machine without a GPU, whatever the log level."""


@cache
def tensorflow() -> ModuleType:
    """Import and configure TensorFlow; the first call takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_chatter():
        import tensorflow as tf

        tf.config.list_physical_devices()
    # A night or a sweep compiles several networks in one process, on purpose.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    except RuntimeError:
        # Somebody computed with it before: its threads are what they are.
        pass
    tf.config.experimental.enable_op_determinism()
    return tf  # type: ignore[no-any-return]


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold the process's stderr back, and pass on what is not chatter."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if not any(each in line for each in CHATTER):
                    os.write(2, line)
