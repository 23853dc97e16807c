"""TensorFlow, configured once per process: deterministic, with few threads."""

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
"""The order of a sum depends on how it is split: a fixed number of threads makes results
bit-identical on any machine."""


CHATTER = (
    b"absl::InitializeLog",
    b"cudart_stub",
    b"cuda_platform",
    b"cpu_feature_guard",
    b"oneDNN custom operations",
)
"""Parts of messages that TensorFlow prints on machines without a GPU, at any log level."""


@cache
def tensorflow() -> ModuleType:
    """Import and configure TensorFlow; the first call takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_chatter():
        import tensorflow as tf

        tf.config.list_physical_devices()
    # A night or a sweep intentionally compiles several networks in one process.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    except RuntimeError:
        # TensorFlow is already initialized in this process: its threads cannot be changed.
        pass
    tf.config.experimental.enable_op_determinism()
    return tf  # type: ignore[no-any-return]


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Buffer the process's stderr, then write it without the lines that match `CHATTER`."""
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
                if not any(phrase in line for phrase in CHATTER):
                    os.write(2, line)
