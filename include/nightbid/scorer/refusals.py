"""One-line error responses, counted by reason."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from nightbid.errors import DataError, NightbidError
from nightbid.scorer.access import RateError, TokenError
from nightbid.scorer.backlog import OverloadedError
from nightbid.scorer.metrics import REFUSED
from nightbid.scorer.rows import TooManyRowsError

LOG = logging.getLogger(__name__)
MOST_BYTES = 16 << 20
"""Maximum size of a request's body."""
RETRY = {"Retry-After": "1"}
REASONS = {
    413: "too large",
    404: "no such address",
    405: "no such method",
    503: "no champion",
}


def refusal(error: Exception) -> Response:
    """Return a one-line response for an error, and count it by reason."""
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
    return json_response({"error": line}, status, headers)


def no_champion(trouble: str) -> HTTPException:
    """Return the error for a scorer that serves no champion."""
    reason = trouble or "no candidate has passed every gate yet"
    return HTTPException(503, f"no champion serves: {reason}", headers={"Retry-After": "5"})


def too_large() -> HTTPException:
    """Return the error for a body above the size limit."""
    return HTTPException(
        413,
        f"body: more than {MOST_BYTES >> 20} MiB → send fewer rows",
        headers={"Connection": "close"},
    )


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(value), status, headers, media_type="application/json")
