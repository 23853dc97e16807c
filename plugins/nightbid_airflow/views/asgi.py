"""What a plugin must say of the pages, without importing them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf

PREFIX = "/nightbid"
FRAME = "/plugin/nightbid"
"""Airflow's page around them."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class LazyApp:
    """The pages as an ASGI application, imported at the first request.

    Plugins are loaded in every component and task; only the API server serves pages.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from nightbid_airflow.views.app import pages

        await pages()(scope, receive, send)


TRIGGERS = re.compile(r"/api/v2/dags/(nightly_[^/]+|score_[^/]+|sweep|same_rows)/dagRuns$")
"""Addresses at which runs of our DAGs are triggered."""


class LazyRefusals:
    """Shortens refusals of triggered runs of our DAGs; no other request is touched.

    Args:
        app: What it stands before.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._app
        if scope.get("method") == "POST" and TRIGGERS.search(scope["path"]):
            from nightbid_airflow.views.refusals import ShortRefusals

            app = ShortRefusals(app)
        await app(scope, receive, send)


def entry_address() -> str:
    """Path of the first page, below whatever path Airflow itself is served at."""
    return f"{_base()}{PREFIX}/"


def framed_address() -> str:
    """The same inside Airflow's own frame, with its navigation around it."""
    return f"{_base()}{FRAME}{PREFIX}/"


def _base() -> str:
    base: str = conf.get("api", "base_url", fallback="") or ""
    return urlsplit(base).path.rstrip("/")
