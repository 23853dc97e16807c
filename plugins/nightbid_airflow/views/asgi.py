"""Entry points of the pages for the Airflow plugin, without importing the pages."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf

PREFIX = "/nightbid"
FRAME = "/plugin/nightbid"
"""Path of Airflow's page that frames the pages."""
AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiScope]]
Send = Callable[[AsgiScope], Awaitable[None]]


class LazyApp:
    """ASGI application of the pages, imported at the first request.

    All components and tasks load the plugin, but only the API server serves pages.
    """

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from nightbid_airflow.views.app import pages

        await pages()(scope, receive, send)


TRIGGERS = re.compile(r"/api/v2/dags/(nightly_[^/]+|score_[^/]+|sweep|same_rows)/dagRuns$")
"""Pattern of the REST paths that trigger runs of Nightbid's DAGs."""


class LazyRefusals:
    """Middleware that shortens error responses to triggered runs of Nightbid's DAGs only.

    Args:
        app: ASGI application to wrap.
    """

    def __init__(self, app: Callable[[AsgiScope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._app
        if scope.get("method") == "POST" and TRIGGERS.search(scope["path"]):
            from nightbid_airflow.views.refusals import ShortRefusals

            app = ShortRefusals(app)
        await app(scope, receive, send)


def entry_address() -> str:
    """Get the path of the first page, below the path at which Airflow itself is served."""
    return f"{_base()}{PREFIX}/"


def framed_address() -> str:
    """Get the path of the first page inside Airflow's own frame, with Airflow's navigation."""
    return f"{_base()}{FRAME}{PREFIX}/"


def _base() -> str:
    base: str = conf.get("api", "base_url", fallback="") or ""
    return urlsplit(base).path.rstrip("/")
