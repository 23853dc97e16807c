"""Direct handling of small requests, without ASGI's messages and tasks.

ASGI took as much CPU time as the lookup of a request's features. Unusual requests still go through
ASGI: large bodies or bodies of unknown length, a request queued behind another one on its
connection, a client that does not read, or a request to be rejected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from nightbid.errors import NightbidError

Headers = Iterable[tuple[bytes, bytes]]


class Scoring(Protocol):
    """Interface of the service that answers; see `nightbid.scorer.service.Service`."""

    def begin(
        self, path: bytes, headers: list[tuple[bytes, bytes]], address: str
    ) -> Callable[[bytes], bytes] | None:
        """Admit a request; return a function from body to answer, or None if ASGI must answer."""

    def submit(self, work: Callable[[], None]) -> None:
        """Queue work to be called in turn; raise OverloadedError if it would wait too long."""

    def hold(self, size: int) -> None:
        """Count bytes of bodies being read; raise OverloadedError above the limit."""

    def refuse(self, error: Exception) -> Response:
        """Return the response for a rejected request."""


class HttpExchange:
    """One request and its response; replaces uvicorn's request-response cycle.

    Args:
        scoring: Service that answers.
        score: Function from the request's body to the response's body.
        transport: Connection of the client.
        keep_alive: Whether the connection stays open after the response.
        headers: Headers of every response.
        done: Called after the response is written.
    """

    response_started = False
    response_complete = False

    def __init__(
        self,
        scoring: Scoring,
        score: Callable[[bytes], bytes],
        transport: asyncio.Transport,
        *,
        keep_alive: bool,
        headers: Headers,
        done: Callable[[], None],
    ) -> None:
        self._scoring, self._score = scoring, score
        self._transport = transport
        self.keep_alive = keep_alive
        self._headers = headers
        self._done = done
        self._parts: list[bytes] = []
        self._held = 0

    def take(self, part: bytes) -> None:
        """Receive a part of the body."""
        if self.response_complete:
            return
        self._parts.append(part)
        self._held += len(part)
        try:
            self._scoring.hold(len(part))
        except NightbidError as error:
            self._release()
            self._refuse(error)

    def end(self) -> None:
        """Queue the request; its body is complete."""
        if self.response_complete:
            return
        self._release()
        try:
            self._scoring.submit(self._run)
        except NightbidError as error:
            self._refuse(error)

    def lose(self) -> None:
        """Handle the loss of the connection."""
        self._release()
        if not self.response_complete:
            self.response_complete = True
            self._scoring.refuse(ClientDisconnect())  # counts the disconnect

    def _release(self) -> None:
        if self._held:
            self._scoring.hold(-self._held)
            self._held = 0

    def _run(self) -> None:
        if self.response_complete or self._transport.is_closing():
            return
        try:
            body = self._score(b"".join(self._parts))
        except Exception as error:  # the response or the log reports it
            self._refuse(error)
        else:
            self._write(200, ((b"content-type", b"application/json"),
                              (b"content-length", b"%d" % len(body))), body)  # fmt: skip

    def _refuse(self, error: Exception) -> None:
        answer = self._scoring.refuse(error)
        self._write(answer.status_code, answer.raw_headers, bytes(answer.body))

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        lines = [STATUS_LINE[status]]
        for name, value in (*self._headers, *headers):
            lines += (name, b": ", value, b"\r\n")
            if name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", body)
        self._parts.clear()
        self.response_started = self.response_complete = True
        self._transport.write(b"".join(lines))
        if not self.keep_alive:
            self._transport.close()
        self._done()
