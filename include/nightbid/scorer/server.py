"""The scorer's HTTP interface.

====  ==========  ==================================================================
POST  /score      rows in, a probability each out, and which champion said so
GET   /columns    what a row holds: name and type of each column that the model reads
GET   /ready      200 while a champion serves, else 503
GET   /health     200 while the process answers; champion, requests, what is wrong
====  ==========  ==================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nightbid.errors import ConfigError, DataError, NightbidError
from nightbid.night.champion import Champion
from nightbid.scorer.follow import Follower, Served
from nightbid.scorer.rows import TooManyRowsError, parse

MOST_BYTES = 64 << 20
"""Of a request's body."""
CROWD = 512
"""Connections and requests at once; more are told to come back (503)."""
GRACE_SECONDS = 30
"""For requests under way when the server is told to stop."""


def make_scorer(follower: Follower, *, threads: int, poll_seconds: float) -> Starlette:
    """Make the application.

    Args:
        follower: of the pipeline's champion.
        threads: that score at the same time.
        poll_seconds: between looks at the champion's history.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
    counts = {"requests": 0, "rows": 0, "refused": 0}

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async def follow() -> None:
            while True:
                await asyncio.sleep(poll_seconds)
                await asyncio.to_thread(follower.look)

        await asyncio.to_thread(follower.look)
        following = asyncio.create_task(follow())
        yield
        following.cancel()
        pool.shutdown()

    async def score(request: Request) -> Response:
        served = _serving(follower)
        body = await _body(request)

        def work() -> tuple[int, list[float]]:
            raw = parse(body, served.columns)
            return len(raw), served.score(raw).tolist()

        rows, probabilities = await asyncio.get_running_loop().run_in_executor(pool, work)
        counts["requests"] += 1
        counts["rows"] += rows
        return JSONResponse({"champion": _name(served), "probabilities": probabilities})

    async def columns(request: Request) -> Response:
        served = _serving(follower)
        types = {each.name: str(each.type) for each in served.columns}
        return JSONResponse({"champion": _name(served), "columns": types})

    async def ready(request: Request) -> Response:
        served = _serving(follower)
        return JSONResponse({"champion": _name(served), "trouble": follower.state.trouble or None})

    async def health(request: Request) -> Response:
        state = follower.state
        return JSONResponse(
            {
                "status": "serving" if state.served else "waiting for a champion",
                "champion": _name(state.served) if state.served else None,
                "trouble": state.trouble or None,
                **counts,
            }
        )

    async def wrong(request: Request, error: Exception) -> Response:
        counts["refused"] += 1
        if isinstance(error, HTTPException):
            return _refusal(error.status_code, str(error.detail), dict(error.headers or {}))
        if isinstance(error, TooManyRowsError):
            return _refusal(413, str(error))
        if isinstance(error, NightbidError):
            return _refusal(422 if isinstance(error, DataError) else 500, str(error))
        return _refusal(500, "the request could not be scored; the scorer's log says why")

    return Starlette(
        routes=[
            Route("/score", score, methods=["POST"]),
            Route("/columns", columns),
            Route("/ready", ready),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: wrong, NightbidError: wrong, Exception: wrong},
        lifespan=lifespan,
    )


def _serving(follower: Follower) -> Served:
    state = follower.state
    if state.served is None:
        what = state.trouble or "no candidate has passed every gate yet"
        raise HTTPException(503, f"no champion serves: {what}", headers={"Retry-After": "5"})
    return state.served


def _name(served: Served) -> dict[str, Any]:
    champion: Champion = served.champion
    return {
        "pipeline": champion.pipeline,
        "number": champion.number,
        "run_id": champion.run_id,
        "night": champion.night.isoformat(),
        "bundle": champion.bundle_digest[:12],
        "architecture": served.architecture,
    }


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise HTTPException(413, f"body: more than {MOST_BYTES >> 20} MiB → send fewer rows")
        parts.append(part)
    return b"".join(parts)


def _refusal(status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": line}, status_code=status, headers=headers)


def listen(host: str, port: int) -> socket.socket:
    """Take the address before anything is loaded.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(CROWD)  # who comes while the model is loaded waits, and is answered
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror})",
            where="serve",
            hint="choose another --port",
        ) from error
    return taken


def serve(follower: Follower, taken: socket.socket, *, threads: int, poll_seconds: float) -> None:
    """Serve until the process is told to stop; requests under way are answered first."""
    app = make_scorer(follower, threads=threads, poll_seconds=poll_seconds)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=CROWD,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[taken])
