"""Synchronous training by several workers: one process each, on one machine or many.

Every worker runs the same program with its own TF_CONFIG (a managed training job sets it). All
workers read the same rows in the same order, learn every n-th row of each batch, and sum their
gradients, so a step equals that of one worker with the whole batch. If rows stream, each worker
reads only its own share of them, and a batch consists of all shares. GPUs are replicas in the same
way: training uses those that TensorFlow sees.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from nightbid.counts import counted
from nightbid.errors import ConfigError

ROLES = {"workerpool0": "chief", "master": "chief", "workerpool1": "worker"}
"""Role name in TF_CONFIG of a managed job → role name of TensorFlow."""


@dataclass(frozen=True)
class WorkerRole:
    """Role and rank of this process among the workers of its training."""

    cluster: dict[str, list[str]]
    """`chief` and `worker` → host:port of each process of that role; empty for a single process."""
    role: str = "chief"
    index: int = 0

    @property
    def workers(self) -> int:
        """Number of workers; 1 for a single process."""
        return max(1, sum(map(len, self.cluster.values())))

    @property
    def number(self) -> int:
        """Number of this worker among all, from 0; the chief comes first."""
        return self.index + (len(self.cluster.get("chief", ())) if self.role == "worker" else 0)

    @property
    def processes_here(self) -> int:
        """Number of workers on this machine, this one included."""
        hosts = [address.rpartition(":")[0] for kind in self.cluster.values() for address in kind]
        own = self.cluster.get(self.role, [])[self.index : self.index + 1]
        return max(1, hosts.count(own[0].rpartition(":")[0])) if own else 1

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the output."""
        return self.role == "chief" or ("chief" not in self.cluster and self.index == 0)


def place_of_environment() -> WorkerRole:
    """Read TF_CONFIG; parameter servers and evaluators in it do not count as workers.

    Raises:
        ConfigError: TF_CONFIG cannot be read.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return WorkerRole({})
    try:
        config = json.loads(text)
        named = {
            ROLES.get(role, role): addresses
            for role, addresses in config.get("cluster", {}).items()
        }
        cluster = {role: list(named[role]) for role in ("chief", "worker") if named.get(role)}
        task = config.get("task", {})
        role = str(task.get("type", "chief"))
        place = WorkerRole(cluster, ROLES.get(role, role), int(task.get("index", 0)))
        if place.workers > 1:
            cluster[place.role][place.index]
    except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise ConfigError(
            f"cannot read {text[:80]!r}", where="TF_CONFIG", hint="unset it to train in one process"
        ) from error
    return place


def agreed(strategy: Any, vote: bool) -> bool:
    """Return whether any worker wants something, so that all workers do the same.

    Machines may differ, for example in memory.

    Args:
        strategy: Distribution strategy of this training.
        vote: Whether this worker wants it.
    """
    import tensorflow as tf

    if place_of_environment().workers == 1:
        return vote

    def ask() -> Any:
        return tf.constant(float(vote))

    total = strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(ask), axis=None)
    return bool(float(total) > 0)


def strategy_of_environment(batch_size: int) -> Any:
    """Create the strategy for the workers of TF_CONFIG and the GPUs of this machine.

    Args:
        batch_size: Rows per batch of all replicas together.

    Raises:
        ConfigError: TF_CONFIG cannot be read, or there are more replicas than rows in a batch.
    """
    import tensorflow as tf

    place = place_of_environment()
    gpus = tf.config.list_logical_devices("GPU") if place.workers == 1 else ()
    if place.workers == 1 and len(gpus) < 2:
        return tf.distribute.get_strategy()
    if place.workers == 1:
        strategy = tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec(place.cluster),
                task_type=place.role,
                task_id=place.index,
                rpc_layer="grpc",
            )
        )
    if strategy.num_replicas_in_sync > batch_size:
        raise ConfigError(
            f"{strategy.num_replicas_in_sync} replicas share batches of"
            f" {counted(batch_size, 'row')}",
            where="train.batch_size",
            hint="it is the total of all replicas: raise it",
        )
    return strategy
