"""HTTP protocol of the scorer: slow, idle and oversized connections do not affect others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import Callable
from typing import Any, ClassVar, cast

import httptools
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nightbid.scorer.exchange import HttpExchange, Scoring

LINGER_SECONDS = 2
"""Seconds for a client to finish sending a request that was rejected early."""
LINGER_BYTES = 64 << 20
"""Maximum number of bytes of such a request that are discarded."""
IDLE_SECONDS = 75
"""Seconds that a connection may be idle between two requests."""
MOST_HEAD_BYTES = 64 << 10
"""Maximum size of a request line with its headers."""
NOT_HTTP = "not HTTP → send an HTTP/1.1 request"
TOO_LARGE = f"headers: more than {MOST_HEAD_BYTES >> 10} KiB → send fewer"
MOST_CONNECTIONS = 8192
"""Maximum per process. Beyond it, a new connection replaces an idle one."""


class Lingering:
    """Transport that is closed without losing the response.

    Closing a socket while the client is still sending resets the connection, and the reset may
    discard the response before the client reads it. So if a request is rejected early, the rest of
    it is read and discarded within limits, and the connection is closed when the client finishes.

    Args:
        transport: Connection of the client.
        is_unread: Function that returns whether the client may still be sending a request.
        loop: Event loop of the connection.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        is_unread: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._is_unread = is_unread
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._left = LINGER_BYTES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def lingers(self) -> bool:
        """Whether received data is discarded by now."""
        return self._timer is not None

    def is_closing(self) -> bool:
        """Return whether no further response is sent."""
        return self.lingers or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send a part of a response, unless the connection has ended.

        Of the requests that a client sends ahead, uvicorn stops only the last one then.
        """
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection once the client has finished sending."""
        if self.is_closing():
            return
        if not self._is_unread():
            self._transport.close()
            return
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.close)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()

    def throw_away(self, data: bytes) -> None:
        """Discard data that the client is still sending."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.close()

    def stop(self) -> None:
        """Cancel the timer when the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a deadline per request and a connection limit.

    Small requests to a scorer (`scoring` in the application's state) are answered directly.
    """

    client_seconds: ClassVar[float] = 10
    """Seconds for a request to arrive completely, from its first byte or the connection's start,
    and for a client to read what is buffered for it."""
    cycle: Any
    _lingering: Lingering
    _whole = True
    """Whether the latest request was read completely."""
    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head = 0
    _in_head = True
    _offered = b""
    """Method of a request that offers a protocol upgrade."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request; enforce the connection limit."""
        self._lingering = Lingering(transport, lambda: not self._whole, self.loop)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        if len(self.connections) > most_connections():
            idle = next(
                (connection for connection in self.connections if _is_idle(connection, self)), None
            )
            if idle is None:
                self._end(503, "too many connections → try again later")
                return
            idle.transport.close()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers, and clean up the current request."""
        self._lingering.stop()
        self._stop()
        self._take()
        if isinstance(self.cycle, HttpExchange):
            self.cycle.lose()
            self.cycle = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data, and limit the size of a request's head."""
        if self._lingering.lingers:
            self._lingering.throw_away(data)
            return
        if self._in_head:
            self._head += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self._end(400, NOT_HTTP)
            return
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
            return
        if self._in_head and self._head > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._end(431, TOO_LARGE)

    def on_message_begin(self) -> None:
        """Start the timer of a request."""
        super().on_message_begin()
        self._whole = False
        self._in_head, self._head = True, 0
        self._await_request()

    def on_headers_complete(self) -> None:
        """Forward the request; the code that reads the body limits its size."""
        if self.parser.should_upgrade():
            self._offered = self.parser.get_method()
            return
        self._in_head = False
        if (
            len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            > MOST_HEAD_BYTES
        ):
            self._end(431, TOO_LARGE)
            raise ValueError(TOO_LARGE)  # stops the parser
        exchange = self._exchange()
        if exchange is None:
            super().on_headers_complete()
        else:
            self.cycle = exchange

    def _exchange(self) -> HttpExchange | None:
        """Start a request that does not need ASGI; return None if ASGI must answer it."""
        scoring: Scoring | None = getattr(getattr(self.app, "state", None), "scoring", None)
        is_behind = self.cycle is not None and not self.cycle.response_complete
        if (
            scoring is None
            or is_behind
            or self.expect_100_continue
            or self.flow.write_paused
            or self.parser.get_method() != b"POST"
        ):
            return None
        score = scoring.begin(self.url, self.headers, self.client[0] if self.client else "")
        if score is None:
            return None
        return HttpExchange(
            scoring,
            score,
            self.transport,
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            headers=self.server_state.default_headers,
            done=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        """Forward a part of the body."""
        if isinstance(self.cycle, HttpExchange):
            self.cycle.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the timer; the request is complete."""
        self._whole = True
        if self._offered:
            return
        self._stop()
        if isinstance(self.cycle, HttpExchange):
            self.cycle.end()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, if the last one was read completely."""
        super().on_response_complete()
        self._in_head, self._head = True, 0

    def _decline(self, rest: bytes) -> None:
        """Parse a request that offers a protocol upgrade (Java's client: h2c) as one without it.

        The parser omits the body of such a request.
        """
        method, self._offered = self._offered, b""
        if method == b"CONNECT":
            self._end(400, NOT_HTTP)
            return
        head = [method + b" " + self.url + b" HTTP/1.1"]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"
            if name != b"upgrade":
                head.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join([*head, b"", b""]) + rest)

    def pause_writing(self) -> None:
        """Start the timer of a client that does not read its response."""
        self._take()
        self._unread = self.loop.call_later(self.client_seconds, self._abandon)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop that timer."""
        self._take()
        super().resume_writing()

    def _take(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _abandon(self) -> None:
        _count("unread")
        self.transport.abort()

    def _await_request(self) -> None:
        self._stop()
        self._late = self.loop.call_later(self.client_seconds, self._expire)

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
            waited = f"{self.client_seconds:g} s"
            self._end(408, f"the request did not arrive within {waited} → send it again")

    def _end(self, status: int, line: str) -> None:
        _count(REASONS[status])
        body = json.dumps({"error": line}, ensure_ascii=False).encode()
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"retry-after: 1\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # Connections above the limit are closed at once, even if the response may be lost.
        self._whole = status == 503
        self.transport.close()


REASONS = {400: "not http", 408: "slow", 431: "too large", 503: "too many connections"}


class Loop(uvloop.Loop):
    """uvloop's event loop with the request deadline for TLS handshakes."""

    async def create_server(self, *arguments: Any, **more: Any) -> Any:
        """Create a server with a deadline for TLS handshakes."""
        if more.get("ssl") is not None:
            more["ssl_handshake_timeout"] = Protocol.client_seconds
        return await super().create_server(*arguments, **more)


@functools.cache
def most_connections() -> int:
    """Return the connection limit per process: the limit of open files, at most 8192."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        soft = hard if hard != resource.RLIM_INFINITY else 65_536
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return int(min(MOST_CONNECTIONS, soft - 128))


def _is_idle(one: Any, new: Protocol) -> bool:
    return one is not new and (one.cycle is None or one.cycle.response_complete)


def _count(reason: str) -> None:
    # Import late: the metrics' folder is known only after a process has read its settings.
    from nightbid.scorer.metrics import REFUSED

    REFUSED.labels(reason).inc()
