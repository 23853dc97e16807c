"""Free ports of this machine for servers that start later, in another process."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

LOWEST = 16_384
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL = 32_768
"""First port that Linux assigns by itself, unless an administrator changed the range."""


def free_ports(count: int = 1) -> list[int]:
    """Pick free TCP ports that the system assigns to nobody until their servers listen.

    A port that the system picks (`bind` to port 0) may be assigned again before its server starts:
    to another such request or to an outgoing connection. So these are below that range.

    Args:
        count: Number of ports.

    Raises:
        OSError: No port is free.
    """
    with ExitStack() as stack:
        ports = []
        for port in _candidates():
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port or probe.getsockname()[1])
            if len(ports) == count:
                return ports
    raise OSError("no port is free on 127.0.0.1")


def _candidates() -> list[int]:
    """List ports in random order, even in forks of one process."""
    try:
        first = int(RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = EPHEMERAL
    if first <= LOWEST:
        # No port of a server is outside the system's range.
        return [0] * 1000
    return SystemRandom().sample(range(LOWEST, first), k=min(1000, first - LOWEST))
