"""Pages that say why a request failed, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from nightbid.errors import NightbidError
from nightbid.report.pages import message_document
from pydantic import ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException

from nightbid_airflow.views.current_user import login_address
from nightbid_airflow.views.links import ServedLinks

LOG = logging.getLogger(__name__)
TITLES = {401: "Not logged in", 403: "No access", 404: "Not found", 422: "Bad request"}


def add_error_pages(app: FastAPI, links: Callable[[Request], ServedLinks]) -> None:
    """Answer each kind of error with a page; a script that acts gets JSON."""

    def _complaint(request: Request, status: int, message: str, to: str, text: str) -> HTMLResponse:
        page = message_document(
            TITLES.get(status, "Something went wrong"),
            message,
            links=links(request),
            to=to,
            text=text,
        )
        return HTMLResponse(page, status_code=status)

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> Response:
        if "authorization" in request.headers and request.method == "POST":
            return JSONResponse({"detail": error.detail}, status_code=error.status_code)
        if error.status_code == 401:
            message = "Log in to Airflow to see these pages."
            return _complaint(request, 401, message, login_address(str(request.url)), "Log in")
        message = str(error.detail)
        return _complaint(
            request, error.status_code, message, links(request).nights(), "All nights"
        )

    @app.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> HTMLResponse:
        message = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return _complaint(request, 422, message, links(request).nights(), "All nights")

    @app.exception_handler(NightbidError)
    @app.exception_handler(ValidationError)
    @app.exception_handler(OSError)
    async def failed(request: Request, error: Exception) -> HTMLResponse:
        LOG.warning("cannot show %s", request.url.path, exc_info=error)
        return _complaint(request, 500, str(error), links(request).nights(), "All nights")

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> HTMLResponse:
        message = "See the API server's log for the reason."
        return _complaint(request, 500, message, links(request).nights(), "All nights")
