"""Connections of the scorer: slow, silent and oversized ones cost nothing to others."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

READ_SECONDS = 10
"""For a request to arrive whole, from its first byte or from the start of its connection."""
IDLE_SECONDS = 75
"""Between two requests of a connection."""
MOST_HEAD_BYTES = 64 << 10
"""Of a request's line and headers."""
MOST_CONNECTIONS = 8192
"""Of one process. Beyond it, a connection that waits for a request gives way to a new one."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a deadline for each request and a limit of connections."""

    _late: asyncio.TimerHandle | None = None
    _head = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            idle = next((each for each in self.connections if _is_idle(each, self)), None)
            if idle is None:
                self._end(503, "too many connections → try again later")
                return
            idle.transport.close()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head, which nothing else limits."""
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._end(431, f"headers: more than {MOST_HEAD_BYTES >> 10} KiB → send fewer")

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        super().on_message_begin()
        self._in_head, self._head = True, 0
        self._await_request()

    def on_headers_complete(self) -> None:
        """Pass the request on; its body is limited by who reads it."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the clock: the request is whole."""
        self._stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, if the last one was read whole."""
        super().on_response_complete()
        self._in_head, self._head = True, 0

    def _await_request(self) -> None:
        self._stop()
        self._late = self.loop.call_later(READ_SECONDS, self._expire)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _expire(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started:
            self.transport.close()
        else:
            self._end(408, f"the request did not arrive within {READ_SECONDS} s → send it again")

    def _end(self, status: int, line: str) -> None:
        body = json.dumps({"error": line}, ensure_ascii=False).encode()
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"retry-after: 1\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


@functools.cache
def most_connections() -> int:
    """Connections of one process: what its limit of open files allows, at most 8192."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        soft = hard if hard != resource.RLIM_INFINITY else 65_536
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return int(min(MOST_CONNECTIONS, soft - 128))


def _is_idle(one: Any, new: Protocol) -> bool:
    return one is not new and (one.cycle is None or one.cycle.response_complete)
