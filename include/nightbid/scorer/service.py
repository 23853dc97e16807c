"""The scorer's HTTP interface, as implemented by each of its processes.

====  =============  ===============================================================
POST  /score         score rows: one probability each, and the champion that scored
POST  /rank          score rows with bids, order them by eCPM and price them
GET   /columns       name and type of each column that the model reads
GET   /ready         200 if a champion serves in every process, else 503
GET   /health        200 while the process responds; champion, requests, errors
GET   /metrics       Prometheus metrics
GET   /shadow        comparison with a second bundle that scored the same requests
GET   /openapi.json  this interface, with the columns that the champion reads
====  =============  ===============================================================

`/ready`, `/health` and `/metrics` report on all processes of the scorer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any, Literal

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from nightbid.errors import NightbidError
from nightbid.scorer import auction, openapi, shadow
from nightbid.scorer.access import Access, Admission, Guard
from nightbid.scorer.arrow_rows import MEDIA_TYPE
from nightbid.scorer.backlog import Backlog, OverloadedError
from nightbid.scorer.follow import Follower, OneBundle, ServedBundle
from nightbid.scorer.metrics import (
    REQUESTS,
    ROWS,
    SECONDS,
    SHADOW_SKIPPED,
    WorkerStates,
)
from nightbid.scorer.monitoring import Monitoring
from nightbid.scorer.openapi import PREDICTED
from nightbid.scorer.refusals import MOST_BYTES, json_response, no_champion, refusal, too_large

LOG = logging.getLogger(__name__)
MOST_HELD_BYTES = 64 << 20
"""Maximum size of all bodies that one process holds at once."""
LARGE_BYTES = 256 << 10
"""Larger bodies are scored in a thread, in parallel to small ones."""
ADDRESSES = (
    "use POST /score or /rank; GET /columns, /ready, /health, /metrics, /shadow or /openapi.json"
)
Endpoint = Literal["score", "rank"]
DIRECT: dict[bytes, Endpoint] = {b"/score": "score", b"/rank": "rank"}
ANSWERED = {endpoint: REQUESTS.labels(endpoint) for endpoint in DIRECT.values()}


class Service:
    """One process of a scorer.

    Args:
        follower: Provides the champion.
        states: States of all processes.
        poll_seconds: Seconds between two polls of the champion history.
        queue_ms: Maximum expected wait of a request in milliseconds; beyond it, it is rejected.
        access: Requirements for clients; None admits every request.
        has_shadow: Whether a second bundle scores the same requests.
    """

    def __init__(
        self,
        follower: Follower | OneBundle,
        states: WorkerStates,
        *,
        poll_seconds: float,
        queue_ms: float,
        access: Access | None = None,
        has_shadow: bool = False,
    ) -> None:
        self._shadow = shadow.Sender(states.folder) if has_shadow else None
        self._admission = Admission(access or Access(), states.folder)
        self._follower = follower
        self._states = states
        self._poll_seconds = poll_seconds
        self._queue_ms = queue_ms
        self._held = 0
        self._backlog: Backlog
        self._monitoring = Monitoring(
            follower, states, waiting=lambda: len(self._backlog), has_shadow=has_shadow
        )

    def application(self) -> Starlette:
        """Create the ASGI application."""
        refuse = self._refuse
        app = Starlette(
            routes=[
                Route("/score", self.score, methods=["POST"]),
                Route("/rank", self.rank, methods=["POST"]),
                Route("/columns", self.columns),
                Route("/openapi.json", self.openapi),
                *self._monitoring.routes(),
            ],
            exception_handlers={
                HTTPException: refuse,
                NightbidError: refuse,
                ClientDisconnect: refuse,
                Exception: refuse,
            },
            middleware=[Middleware(Guard, admission=self._admission, refuse=refusal)],
            lifespan=self._lifespan,
        )
        app.router.redirect_slashes = False  # /score/ is no address
        app.state.scoring = self
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._look()
        # Objects loaded by now stay; excluding them saves 50 ms in each garbage collection.
        gc.collect()
        gc.freeze()
        self._backlog = Backlog(self._queue_ms)
        following = asyncio.create_task(self._follow())
        yield
        following.cancel()
        self._backlog.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            served = self._follower.state.served
            try:
                await self._look()
                self._monitoring.report(served)
            except Exception:  # for example a full disk; the next poll may succeed
                LOG.exception("cannot look for a new champion")

    async def _look(self) -> None:
        state = await asyncio.to_thread(self._follower.look)
        self._states.write(state.served.name if state.served else None, state.trouble)

    async def score(self, request: Request) -> Response:
        """Score rows."""
        return await self._answer(request, "score")

    async def rank(self, request: Request) -> Response:
        """Score candidates with bids, and order and price them by an auction's rules."""
        if self._serving().output == "value":
            raise HTTPException(
                422,
                "/rank: the champion predicts values, but eCPM is bid times probability → use "
                "/score",
            )
        return await self._answer(request, "rank")

    async def _answer(self, request: Request, endpoint: Endpoint) -> Response:
        start = time.monotonic()
        served = self._serving()
        body = await self._body(request)
        large = len(body) > LARGE_BYTES
        is_arrow = _is_arrow(request.headers.get("content-type", ""))
        work = functools.partial(self._work, endpoint, served, is_arrow, body, large=large)
        answer = await self._backlog.do(work, large=large)
        SECONDS.observe(time.monotonic() - start)
        return Response(answer, media_type="application/json")

    def _work(
        self, endpoint: Endpoint, served: ServedBundle, is_arrow: bool, body: bytes, *, large: bool
    ) -> bytes:
        """Score a request, and return the body of its response."""
        answer: dict[str, Any] = {"champion": served.name}
        if endpoint == "score":
            score = served.answer_arrow if is_arrow else served.answer
            answer[PREDICTED[served.output]] = scores = score(body, large=large)
            self._beside(served, body, scores, is_arrow=is_arrow)
        else:
            rank = served.rank_arrow if is_arrow else served.rank
            scores, others = rank(body, large=large)
            answer["ranking"] = auction.ranked(others, scores)
            self._beside(served, body, scores, is_arrow=is_arrow, bids=others["bids"])
        ANSWERED[endpoint].inc()
        ROWS.inc(len(scores))
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    def begin(
        self, path: bytes, headers: list[tuple[bytes, bytes]], address: str
    ) -> Callable[[bytes], bytes] | None:
        """Admit a small request that does not need ASGI.

        Args:
            path: Path of the request.
            headers: Lowercase names, and values.
            address: IP address of the client.

        Returns:
            A function from the request's body to the response's body; None if ASGI must answer,
            also if the request is to be rejected.
        """
        endpoint, served = DIRECT.get(path), self._follower.state.served
        if endpoint is None or served is None:
            return None
        values = dict(headers)
        length = values.get(b"content-length", b"")
        if len(values) < len(headers) or len(length) > 7 or not length.isdigit():
            return None
        if int(length) > LARGE_BYTES or (endpoint == "rank" and served.output == "value"):
            return None
        try:
            self._admission.admit(address, values.get(b"authorization", b""))
        except NightbidError:
            return None
        is_arrow = _is_arrow(values.get(b"content-type", b"").decode("latin-1"))
        start = time.monotonic()

        def score(body: bytes) -> bytes:
            answer = self._work(endpoint, served, is_arrow, body, large=False)
            SECONDS.observe(time.monotonic() - start)
            return answer

        return score

    def submit(self, work: Callable[[], None]) -> None:
        """Queue a small piece of work; see `Backlog.submit`."""
        self._backlog.submit(work)

    def hold(self, size: int) -> None:
        """Count bytes of a body that is being read; a negative size releases them.

        Raises:
            OverloadedError: The total is too large. The bytes of this call are counted anyway.
        """
        self._held += size
        if size > 0 and self._held > MOST_HELD_BYTES:
            raise OverloadedError(
                f"{MOST_HELD_BYTES >> 20} MiB of other requests are being read",
                where="body",
                hint="send it again after Retry-After",
            )

    def _beside(self, served: ServedBundle, body: bytes, scores: Any, **more: Any) -> None:
        """Send an answered request to the shadow."""
        if self._shadow is None:
            return
        if not self._shadow.send(
            shadow.AnsweredRequest(
                champion=served.champion.number,
                body=body,
                is_arrow=more.get("is_arrow", False),
                scores=scores.tobytes(),
                bids=more.get("bids", []),
            )
        ):
            SHADOW_SKIPPED.inc()

    async def columns(self, request: Request) -> Response:
        """Return names and types of the columns of a row."""
        served = self._serving()
        types = {column.name: str(column.type) for column in served.columns}
        return json_response({"champion": served.name, "columns": types})

    async def openapi(self, request: Request) -> Response:
        """Return the OpenAPI description of this interface."""
        served = self._follower.state.served
        columns, output = (served.columns, served.output) if served else (None, "probability")
        return json_response(openapi.document(columns, version("nightbid"), output))

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > MOST_BYTES:
            raise too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > MOST_BYTES:
                    self._held += len(part)
                    raise too_large()
                self.hold(len(part))
                parts.append(part)
        finally:
            self.hold(-size)
        return b"".join(parts)

    def _serving(self) -> ServedBundle:
        state = self._follower.state
        if state.served is None:
            raise no_champion(state.trouble)
        return state.served

    def refuse(self, error: Exception) -> Response:
        """Return a one-line response for an error; see `refusal`."""
        return refusal(error)

    async def _refuse(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.detail in ("Not Found", "Method Not Allowed"):
            asked = f"{request.method} {request.url.path[:60]}: {error.detail.lower()}"
            error = HTTPException(error.status_code, f"{asked} → {ADDRESSES}", error.headers)
        return refusal(error)


def _is_arrow(content_type: str) -> bool:
    return content_type.partition(";")[0].strip() == MEDIA_TYPE
