"""Shortens Airflow's error responses to a wrong form field from a JSON schema to one line."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_DUMP = re.compile(r"^(Invalid input for param .+?): (.+?)\n\nFailed validating", re.DOTALL)
_CHOICES = re.compile(r"^'(.*)' does not match '\^\(([\w|]+)\)(.*)'$", re.DOTALL)
_HINTS = (
    (r"is not a 'date'", "write YYYY-MM-DD, such as 2026-01-08"),
    (r"is not of type .*'integer'", "write a whole number, without quotation marks"),
    (r"is not of type .*'number'", "write a number, without quotation marks"),
    (r"is not of type .*'array'", "write a list of texts key=value"),
)
"""End of a schema's message → what to write instead."""


class ShortRefusals(BaseHTTPMiddleware):
    """Middleware that shortens error responses to triggered runs."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Answer one request."""
        answer = await call_next(request)
        if answer.status_code != 400:
            return answer
        body = b"".join([part async for part in answer.body_iterator])  # type: ignore[attr-defined]
        try:
            content: Any = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and isinstance(content.get("detail"), str):
            return JSONResponse({**content, "detail": in_one_line(content["detail"])}, 400)
        return Response(body, 400, dict(answer.headers))


def in_one_line(detail: str) -> str:
    """Reduce a dump of a JSON schema error to one line about the field.

    Args:
        detail: Detail of Airflow's error response.
    """
    dump = _DUMP.match(detail)
    if dump is None:
        return detail
    field, fault = dump.groups()
    choices = _CHOICES.match(fault)
    if choices is None:
        hint = "see the description of the field"
        hint = next((text for end, text in _HINTS if re.search(f"{end}$", fault)), hint)
        return f"{field}: {fault} → {hint}"
    value, names, rest = choices.groups()
    known = names.split("|")
    name = re.split(r"[.=]", value, maxsplit=1)[0]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    if name in known:
        hint = (
            "write key=value without spaces before the sign, as in train.learning_rate=0.002; a key"
            " has letters from a to z, digits, _ and dots"
        )
    problem = f"{value!r} names no key of the pipeline's YAML" if "=" in rest else f"no {value!r}"
    return f"{field}: {problem if name not in known else repr(value)} → {hint}"
