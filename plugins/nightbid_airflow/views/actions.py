"""Actions on the pages and by REST: roll back, override, promote, rerun and more.

Each action is a POST to `/act/<pipeline>/…` with form fields or a JSON object. It requires
permission to edit the pipeline's nightly DAG, and a reason, which the history keeps with the user's
name. Forms carry a token that other sites cannot know. A request with an `Authorization: Bearer`
header needs no token, because browsers never add that header by themselves.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from airflow.configuration import conf
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, NightbidError
from nightbid.gates.overrides import add_override
from nightbid.night.pauses import PromotionPauses
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.promotion import promote_by_hand, roll_back
from nightbid.report.pages import message_document

from nightbid_airflow.views.current_user import CurrentUser, Login, rerun_failed, trigger
from nightbid_airflow.views.links import ServedLinks
from nightbid_airflow.views.sweeps import run_winner
from nightbid_airflow.views.workspaces import Workspaces

MOST_BYTES = 100_000
Given = Mapping[str, str]


def token_of(user: str, day: dt.date | None = None) -> str:
    """Get the token of the forms of a user on a day; default: today."""
    day = day or dt.datetime.now(dt.UTC).date()
    secret = conf.get("api", "secret_key")
    return hmac.new(secret.encode(), f"nightbid {user} {day}".encode(), hashlib.sha256).hexdigest()


def _is_token(text: str, user: str) -> bool:
    """Whether a token is of today or yesterday, since a page may be open over midnight."""
    today = dt.datetime.now(dt.UTC).date()
    known = [token_of(user, today - dt.timedelta(days=back)) for back in (0, 1)]
    return any(hmac.compare_digest(text.encode(), token.encode()) for token in known)


async def _given(request: Request) -> dict[str, str]:
    """Read the fields of a form, or of a JSON object."""
    body = await request.body()
    if len(body) > MOST_BYTES:
        raise HTTPException(413, f"At most {MOST_BYTES} bytes are read.")
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            fields = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise HTTPException(422, "The body is not a JSON object.")
        return {str(key): str(value) for key, value in fields.items() if value is not None}
    return dict(parse_qsl(body.decode("utf-8", "replace")))


def _check_request(request: Request, form: Given, reader: CurrentUser, pipeline: str) -> None:
    """Refuse users without permission, and requests that another site may have sent.

    Raises:
        HTTPException: The request is refused, with status 403.
    """
    if not reader.may_edit(pipeline):
        raise HTTPException(403, f"Your role may not change {pipeline}.")
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        return
    if not _is_token(form.get("token", ""), reader.name):
        raise HTTPException(403, "This form is older than a day, or not from these pages: reload"
                            " the page.")  # fmt: skip


def add_actions(app: FastAPI, shelf: Workspaces, settings: Settings) -> None:
    """Add the routes of the actions.

    Args:
        app: Application of the pages.
        shelf: Workspace lookups of the pages.
        settings: Settings that name the folder of the pipelines and suites.
    """

    def rollback(pipeline: str, form: Given, by: str) -> str:
        number = form.get("to", "")
        if number and not number.isdigit():
            raise ConfigError(f"{number!r} is not a number in the history", where="to")
        to = int(number) if number else None
        entry = roll_back(shelf.workspace, pipeline, _reason(form), to, by)
        return f"champion #{entry.number} is run {entry.run_id}"

    def pause(pipeline: str, form: Given, by: str) -> str:
        PromotionPauses(shelf.workspace, pipeline).start(_reason(form), by)
        return "nothing is promoted until promotions are resumed"

    def resume(pipeline: str, form: Given, by: str) -> str:
        PromotionPauses(shelf.workspace, pipeline).end(by)
        return "nights may promote again"

    def promote(pipeline: str, form: Given, by: str) -> str:
        run_id = form.get("run", "")
        entry = promote_by_hand(shelf.workspace, pipeline, run_id, _reason(form), by)
        return f"champion #{entry.number} is run {entry.run_id}"

    def override(pipeline: str, form: Given, by: str) -> str:
        spec = find_pipeline(pipeline, settings.pipelines)
        try:
            until = dt.date.fromisoformat(form.get("until", ""))
        except ValueError:
            raise ConfigError(
                f"{form.get('until', '')!r} is not a date", where="until", hint="write YYYY-MM-DD"
            ) from None
        check = form.get("check", "")
        add_override(settings, spec.pipeline, check, name=by, reason=_reason(form), until=until)
        return f"{check} warns instead of stopping until {until}: clear the gate's task"

    def rerun(pipeline: str, form: Given, by: str) -> str:
        run_id = form.get("run", "")
        return f"{rerun_failed(pipeline, run_id)}, asked by {by}"

    def winner(pipeline: str, form: Given, by: str) -> str:
        return f"run {run_winner(pipeline, form.get('sweep', ''), settings, by)} is triggered"

    def rescore(pipeline: str, form: Given, by: str) -> str:
        runs = [form.get("run", ""), form.get("other", "")]
        for run_id in runs:
            RunRecord.load(shelf.workspace, pipeline, safe_run_id(run_id))
        run = trigger("same_rows", {"pipeline": pipeline, "runs": runs}, by)
        return f"run {run} of same_rows scores the older model"

    acts: dict[str, Callable[[str, Given, str], str]] = {
        "rollback": rollback,
        "pause": pause,
        "resume": resume,
        "promote": promote,
        "override": override,
        "rerun": rerun,
        "winner": winner,
        "rescore": rescore,
    }

    @app.post("/act/{pipeline}/{action}")
    async def act(request: Request, pipeline: str, action: str, reader: Login) -> Response:
        shelf.open(pipeline, reader)
        if action not in acts:
            raise HTTPException(404, f"Unknown action {action!r}.")
        form = await _given(request)
        _check_request(request, form, reader, pipeline)
        by_form = "token" in form
        if by_form and form.get("confirm") != "yes":
            raise HTTPException(422, "Check the box to confirm.")
        try:
            done = acts[action](pipeline, form, reader.name)
        except NightbidError as error:
            raise HTTPException(422, str(error)) from error
        except OSError as error:
            raise HTTPException(
                422, f"{error}: run the command that the page shows in a shell instead."
            ) from error
        if not by_form:
            return JSONResponse({"done": done, "pipeline": pipeline, "by": reader.name})
        base = request.scope.get("root_path", "").rstrip("/")
        if action == "override":
            served_links = ServedLinks(request.scope.get("root_path", ""))
            page = message_document(
                "Overridden", f"{done}.", links=served_links, to=served_links.nights(pipeline),
                text=f"Nights of {pipeline}",
            )  # fmt: skip
            return HTMLResponse(page)
        page = {
            "rerun": f"runs/{pipeline}/{quote(form.get('run', ''))}",
            "winner": f"airflow/nightly_{pipeline}/{quote(form.get('sweep', ''))}-winner",
            "rescore": f"compare/{pipeline}?{_compared(form)}",
        }.get(action, f"champion/{pipeline}")
        return RedirectResponse(f"{base}/{page}", status_code=303)


def _compared(form: Given) -> str:
    runs = (form.get("runs") or f"{form.get('run', '')} {form.get('other', '')}").split()
    return urlencode([*(("run", run) for run in runs), ("asked", "yes")])


def _reason(form: Given) -> str:
    reason: Any = form.get("reason", "").strip()
    if len(reason) < 8:
        raise ConfigError("a reason needs at least eight letters", where="reason")
    return str(reason)
