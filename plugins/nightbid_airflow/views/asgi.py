"""What a plugin must say of the pages, without importing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf

PREFIX = "/nightbid"
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


def entry_address() -> str:
    """Path of the first page, below whatever path Airflow itself is served at."""
    base: str = conf.get("api", "base_url", fallback="") or ""
    return f"{urlsplit(base).path.rstrip('/')}{PREFIX}/"
