"""Small requests to a scorer and their answers, without ASGI's messages and tasks.

These took as much CPU as the lookup of a request's features. What is unusual about a request goes
the usual way through ASGI: a large body or one of unknown length, a request behind another one on
its connection, a client that does not read, or one that is to be refused.
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
    """What answers; `nightbid.scorer.service.Service`."""

    def begin(
        self, path: bytes, headers: list[tuple[bytes, bytes]], address: str
    ) -> Callable[[bytes], bytes] | None:
        """Let a request in; makes an answer of its body, or None: ASGI has to answer it."""

    def submit(self, work: Callable[[], None]) -> None:
        """Call some work when its turn has come, or raise OverloadedError."""

    def hold(self, size: int) -> None:
        """Count bytes that are being read, or raise OverloadedError."""

    def refuse(self, error: Exception) -> Response:
        """The answer to a request that is refused."""


class Exchange:
    """A request and its answer, in the place of uvicorn's cycle of messages.

    Args:
        scoring: What answers.
        score: Makes the body of the answer from that of the request.
        transport: The connection.
        keep_alive: Whether it is used again.
        headers: Of every answer.
        done: Called when the answer is written.
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
        self._is_whole = False

    def take(self, part: bytes) -> None:
        """Read a part of the body."""
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
        """The body is whole: queue the request."""
        if self.response_complete:
            return
        self._is_whole = True
        self._release()
        try:
            self._scoring.submit(self._run)
        except NightbidError as error:
            self._refuse(error)

    def lose(self) -> None:
        """The connection is gone."""
        self._release()
        if not (self._is_whole or self.response_complete):
            self.response_complete = True
            self._scoring.refuse(ClientDisconnect())  # counts it

    def _release(self) -> None:
        if self._held:
            self._scoring.hold(-self._held)
            self._held = 0

    def _run(self) -> None:
        if self._transport.is_closing():
            return
        try:
            body = self._score(b"".join(self._parts))
        except Exception as error:  # the answer says what, or that the log does
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
