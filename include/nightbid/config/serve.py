"""Load test of a candidate and latency objective of the scorer: `load_test` and `serve`."""

from __future__ import annotations

from pydantic import Field

from nightbid.config.base import Block


class LoadTest(Block):
    """How thoroughly the load test measures a candidate within the stage's own process."""

    requests: int = Field(default=300, ge=20, le=20_000)
    """Number of requests of 100 candidates that are sent one after the other, up to three times if
    other processes disturb the measurement; half as many are sent at each rate of the curve. p99 of
    300 requests is the time of the fourth slowest."""


class Serve(Block):
    """Latency objective that the load test checks over a socket.

    The stage starts the scorer itself on loopback, sends rows of the logs in an open loop, and
    searches for the highest rate at which p99 stays within the objective. Client and scorer share
    the machine.
    """

    p99_ms: float = Field(default=20.0, gt=0)
    """Maximum p99 latency in milliseconds, measured from the time at which a request was due."""
    requests_per_second: float = Field(default=200.0, gt=0)
    """Rate that the scorer has to sustain, in requests per second."""
    candidates: int = Field(default=100, ge=1, le=1000)
    """Number of candidates per request."""
    processes: int = Field(default=0, ge=0)
    """Number of scorer processes; 0: one per core."""
    seconds: float = Field(default=2.0, gt=0, le=60)
    """Seconds at each rate. The whole test takes about 15 times as long, and twice that if there is
    a champion."""
