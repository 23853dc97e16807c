"""What the scorer has to hold: the typed `serve` block."""

from __future__ import annotations

from pydantic import Field

from nightbid.config.base import Block


class Serve(Block):
    """The objective that the load test measures over a socket.

    The stage starts the scorer itself on loopback, sends rows of the logs in an open loop, and
    looks for the highest rate at which p99 stays within the objective. Client and scorer share
    the machine.
    """

    p99_ms: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """99 of 100 requests must be answered within so many milliseconds of when they were due."""
    requests_per_second: float = Field(default=200.0, gt=0, allow_inf_nan=False)
    """Rate that the scorer has to hold."""
    candidates: int = Field(default=100, ge=1, le=1000)
    """Candidates of a request."""
    processes: int = Field(default=0, ge=0)
    """Processes of the scorer; 0: one per core."""
    seconds: float = Field(default=2.0, gt=0, le=60)
    """Seconds at each rate. The whole test takes some 15 times as long, and as long again if
    there is a champion."""
