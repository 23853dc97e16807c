"""The scorer's HTTP interface, as one of its processes answers it.

====  =============  ===============================================================
POST  /score         rows in, a probability each out, and which champion said so
POST  /rank          the same rows with bids, ordered by eCPM and priced
GET   /columns       what a row holds: name and type of each column that the model reads
GET   /ready         200 while a champion serves, else 503
GET   /health        200 while the process answers; champion, requests, what is wrong
GET   /metrics       Prometheus metrics
GET   /shadow        how a second bundle scored the same requests
GET   /openapi.json  this interface, with the columns that the champion reads
====  =============  ===============================================================

`/ready`, `/health` and `/metrics` speak for all processes of the scorer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from nightbid.errors import DataError, NightbidError
from nightbid.night.champion import Champion
from nightbid.scorer import auction, openapi, shadow
from nightbid.scorer.access import Access, Guard, RateError, TokenError
from nightbid.scorer.arrow_rows import MEDIA_TYPE
from nightbid.scorer.backlog import Backlog, OverloadedError
from nightbid.scorer.follow import Follower, OneBundle, Served
from nightbid.scorer.metrics import (
    MISSED,
    REFUSED,
    REQUESTS,
    ROWS,
    SECONDS,
    SHADOW_SKIPPED,
    UNPREPARED,
    WAITING,
    WorkerStates,
    exposition,
    totals,
)
from nightbid.scorer.openapi import PREDICTED
from nightbid.scorer.rows import TooManyRowsError

LOG = logging.getLogger(__name__)
MOST_BYTES = 16 << 20
"""Of a request's body."""
MOST_HELD_BYTES = 64 << 20
"""Of all bodies that one process holds at once."""
LARGE_BYTES = 256 << 10
"""A larger body is scored in a thread, beside the small ones."""
RETRY = {"Retry-After": "1"}


class Service:
    """One process of a scorer.

    Args:
        follower: Knows the champion.
        states: Shared with the other processes.
        poll_seconds: Between two looks at the champion's history.
        queue_ms: Longest expected wait of a request; beyond it, it is refused.
        access: What a client needs.
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
        self._access = access or Access()
        self._follower = follower
        self._states = states
        self._poll_seconds = poll_seconds
        self._queue_ms = queue_ms
        self._held = 0
        self._backlog: Backlog

    def application(self) -> Starlette:
        """Make the ASGI application."""
        refuse = self._refuse
        return Starlette(
            routes=[
                Route("/score", self.score, methods=["POST"]),
                Route("/rank", self.rank, methods=["POST"]),
                Route("/columns", self.columns),
                Route("/ready", self.ready),
                Route("/health", self.health),
                Route("/metrics", self.metrics),
                Route("/openapi.json", self.openapi),
                Route("/shadow", self.differences),
            ],
            exception_handlers={
                HTTPException: refuse,
                NightbidError: refuse,
                ClientDisconnect: refuse,
                Exception: refuse,
            },
            middleware=[
                Middleware(Guard, access=self._access, folder=self._states.folder, refuse=refusal)
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._look()
        self._backlog = Backlog(self._queue_ms)
        following = asyncio.create_task(self._follow())
        yield
        following.cancel()
        await self._backlog.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._look()
            except Exception:  # a full disk, say; the next look may succeed
                LOG.exception("cannot look for a new champion")

    async def _look(self) -> None:
        state = await asyncio.to_thread(self._follower.look)
        self._states.write(name_of(state.served) if state.served else None, state.trouble)

    async def score(self, request: Request) -> Response:
        """Score rows."""
        begun = asyncio.get_running_loop().time()
        served = self._serving()
        body = await self._body(request)
        large = len(body) > LARGE_BYTES

        is_arrow = _is_arrow(request)
        score = served.answer_arrow if is_arrow else served.answer

        def work() -> tuple[int, bytes]:
            scores = score(body, large=large)
            self._beside(served, body, scores, is_arrow=is_arrow)
            answer = {"champion": name_of(served), PREDICTED[served.output]: scores}
            return len(scores), orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

        return await self._answer(work, "score", begun, large=large)

    async def rank(self, request: Request) -> Response:
        """Score candidates with bids, and order and price them by an auction's rules."""
        begun = asyncio.get_running_loop().time()
        served = self._serving()
        if served.output == "value":
            raise HTTPException(
                422,
                "/rank: the champion predicts values, and eCPM is bid times probability → ask for"
                " the values at /score",
            )
        body = await self._body(request)
        large = len(body) > LARGE_BYTES
        is_arrow = _is_arrow(request)
        score = served.rank_arrow if is_arrow else served.rank

        def work() -> tuple[int, bytes]:
            scores, others = score(body, large=large)
            ranking = auction.ranked(others, scores)
            self._beside(served, body, scores, is_arrow=is_arrow, bids=others["bids"])
            return len(scores), orjson.dumps({"champion": name_of(served), "ranking": ranking})

        return await self._answer(work, "rank", begun, large=large)

    def _beside(self, served: Served, body: bytes, scores: Any, **more: Any) -> None:
        """Hand an answered request to the shadow."""
        if self._shadow is None:
            return
        if not self._shadow.send(
            shadow.Message(
                champion=served.champion.number,
                body=body,
                is_arrow=more.get("is_arrow", False),
                scores=scores.tobytes(),
                bids=more.get("bids", []),
            )
        ):
            SHADOW_SKIPPED.inc()

    async def _answer(self, work: Any, endpoint: str, begun: float, *, large: bool) -> Response:
        rows, answer = await self._backlog.do(work, large=large)
        REQUESTS.labels(endpoint).inc()
        ROWS.inc(rows)
        SECONDS.observe(asyncio.get_running_loop().time() - begun)
        return Response(answer, media_type="application/json")

    async def columns(self, request: Request) -> Response:
        """Names and types of the columns of a row."""
        served = self._serving()
        types = {each.name: str(each.type) for each in served.columns}
        return _json({"champion": name_of(served), "columns": types})

    async def ready(self, request: Request) -> Response:
        """Whether every process serves a champion."""
        states = self._states.read()
        for state in states:
            if state["champion"] is None:
                raise _no_champion(state["trouble"])
        return _json({"champion": _oldest(states), "trouble": _trouble(states)})

    async def health(self, request: Request) -> Response:
        """What serves, how much was answered, and what is wrong."""
        states = self._states.read()
        counts = totals(
            ("nightbid_requests_total", "nightbid_rows_total", "nightbid_refused_total")
        )
        serving = all(state["champion"] for state in states)
        return _json(
            {
                "status": "serving" if serving else "waiting for a champion",
                "champion": _oldest(states) if serving else None,
                "trouble": _trouble(states),
                "processes": len(states),
                "requests": counts["nightbid_requests_total"],
                "rows": counts["nightbid_rows_total"],
                "refused": counts["nightbid_refused_total"],
            }
        )

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format."""
        WAITING.set(len(self._backlog))
        if served := self._follower.state.served:
            MISSED.inc(served.newly_missed())
            UNPREPARED.inc(served.newly_unprepared())
        return Response(exposition(self._states), media_type="text/plain; version=0.0.4")

    async def differences(self, request: Request) -> Response:
        """How a second bundle scored the same requests."""
        found = shadow.read(self._states.folder) if self._shadow else None
        if found is None:
            what = "starting" if self._shadow else "none → start the scorer with --shadow"
            raise HTTPException(404, f"shadow: {what}")
        pairs = [each.summary() for each in found.pairs.values()]
        counts = {"skipped": found.skipped, "failed": found.failed}
        return _json(
            {"shadow": found.of, **counts, "trouble": found.trouble or None, "comparisons": pairs}
        )

    async def openapi(self, request: Request) -> Response:
        """Describe this interface."""
        served = self._follower.state.served
        columns, output = (served.columns, served.output) if served else (None, "probability")
        return _json(openapi.document(columns, version("nightbid"), output))

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > MOST_BYTES:
            raise _too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                self._held += len(part)
                if size > MOST_BYTES:
                    raise _too_large()
                if self._held > MOST_HELD_BYTES:
                    raise OverloadedError(
                        f"{MOST_HELD_BYTES >> 20} MiB of other requests are being read",
                        where="body",
                        hint="send it again after Retry-After",
                    )
                parts.append(part)
        finally:
            self._held -= size
        return b"".join(parts)

    def _serving(self) -> Served:
        state = self._follower.state
        if state.served is None:
            raise _no_champion(state.trouble)
        return state.served

    async def _refuse(self, request: Request, error: Exception) -> Response:
        return refusal(error)


def refusal(error: Exception) -> Response:
    """One line about an error, counted by its reason."""
    status, reason, line = 500, "error", str(error)
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        status, line, headers = error.status_code, str(error.detail), dict(error.headers or {})
        reason = REASONS.get(status, "error")
    elif isinstance(error, OverloadedError):
        status, reason, headers = 503, "overloaded", RETRY
    elif isinstance(error, TooManyRowsError):
        status, reason = 413, "too large"
    elif isinstance(error, TokenError):
        status, reason = 401, "no token"
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
    elif isinstance(error, RateError):
        status, reason, headers = 429, "rate limit", {"Retry-After": str(error.seconds)}
    elif isinstance(error, DataError):
        status, reason = 422, "invalid"
    elif isinstance(error, ClientDisconnect):
        status, reason, line = 499, "client gone", "the client went away"
    elif not isinstance(error, NightbidError):
        LOG.exception("a request could not be scored", exc_info=error)
        line = "the request could not be scored; the scorer's log says why"
    REFUSED.labels(reason).inc()
    return _json({"error": line}, status, headers)


REASONS = {
    413: "too large",
    404: "no such address",
    405: "no such method",
    503: "no champion",
}


def name_of(served: Served) -> dict[str, Any]:
    """The champion, as answers name it."""
    champion: Champion = served.champion
    return {
        "pipeline": champion.pipeline,
        "number": champion.number,
        "run_id": champion.run_id,
        "night": champion.night.isoformat(),
        "bundle": champion.bundle_digest[:12],
        "architecture": served.architecture,
    }


def _oldest(states: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The champion that every process has reached."""
    champions: list[dict[str, Any]] = [each["champion"] for each in states if each["champion"]]
    return min(champions, key=lambda each: int(each["number"]), default=None)


def _trouble(states: list[dict[str, Any]]) -> str | None:
    return next((str(state["trouble"]) for state in states if state["trouble"]), None)


def _no_champion(trouble: str) -> HTTPException:
    what = trouble or "no candidate has passed every gate yet"
    return HTTPException(503, f"no champion serves: {what}", headers={"Retry-After": "5"})


def _is_arrow(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip() == MEDIA_TYPE


def _too_large() -> HTTPException:
    return HTTPException(
        413,
        f"body: more than {MOST_BYTES >> 20} MiB → send fewer rows",
        headers={"Connection": "close"},
    )


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")
