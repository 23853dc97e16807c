"""Synchronous training by several workers: one process each, on one machine or many.

Every worker runs the same program with its own TF_CONFIG (a managed training job sets it). All
read the same rows in the same order, learn every n-th row of each batch, and add up their
gradients, so that a step is that of one worker with the whole batch.
"""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from nightbid.errors import ConfigError


def strategy_of_environment(batch_size: int) -> Any:
    """Make the strategy that TF_CONFIG asks for; without one, that of a single process.

    Args:
        batch_size: of all workers together.

    Raises:
        ConfigError: TF_CONFIG cannot be read, or there are more workers than rows in a batch.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return tf.distribute.get_strategy()
    try:
        cluster = json.loads(text).get("cluster", {})
        workers = sum(len(cluster.get(role, ())) for role in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"cannot read {text[:80]!r}", where="TF_CONFIG", hint="unset it to train in one process"
        ) from error
    if workers < 2:
        return tf.distribute.get_strategy()
    if workers > batch_size:
        raise ConfigError(
            f"{workers} workers share batches of {batch_size} rows",
            where="train.batch_size",
            hint="it is of all workers together: raise it",
        )
    return tf.distribute.MultiWorkerMirroredStrategy()
