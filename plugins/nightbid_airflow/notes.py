"""Scheduler hooks for when a night starts or ends: they write the run's note and restart the watch.

Airflow shows the note on the page of the run: the night and its outcome. A note that a user has
written or changed is left alone. When a stage is cleared, `watch_cost` is cleared too, because no
task depends on it and Airflow would not rerun it.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.listeners import hookimpl

LOG = logging.getLogger(__name__)
NIGHTLY = "nightly_"
WATCH = "watch_cost"
LONGEST = 900
"""Maximum length of a note, in characters; Airflow stores 1,000."""
MARKS = {"promoted": "🟢", "kept": "⚪", "stopped": "🟠", "failed": "🔴"}
"""Outcome of a night → colored mark, since Airflow's pages no longer show operator colors."""


@hookimpl
def on_dag_run_running(dag_run: Any, msg: str) -> None:
    """Write the note of a starting run; restart the cost watch if a user has cleared a task."""
    _write(dag_run, ended=False)
    try:
        _watch_again(dag_run)
    except Exception:
        LOG.exception("cannot restart the cost watch of %s", dag_run.run_id)


@hookimpl
def on_dag_run_success(dag_run: Any, msg: str) -> None:
    """Note how a night ended."""
    _write(dag_run, ended=True)


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """Note how a night ended."""
    _write(dag_run, ended=True)


def _watch_again(dag_run: Any) -> None:
    """Clear the cost watch of a run that resumes after it had ended."""
    if not dag_run.dag_id.startswith(NIGHTLY):
        return
    from airflow.models.taskinstance import clear_task_instances
    from airflow.utils.state import State
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    ended = [
        task
        for task in dag_run.get_task_instances(session=session)
        if task.task_id == WATCH and task.state in State.finished
    ]
    if ended:
        clear_task_instances(ended, session, dag_run_state=False)


def _write(dag_run: Any, *, ended: bool) -> None:
    if not dag_run.dag_id.startswith(NIGHTLY):
        return
    note = dag_run.dag_run_note
    if note is not None and note.user_id is not None:
        return
    try:
        dag_run.note = note_of(dag_run, ended=ended)
    except Exception:  # A note must never block the scheduler.
        LOG.exception("no note for %s", dag_run.run_id)


def note_of(dag_run: Any, *, ended: bool) -> str:
    """Write the note in Markdown: night, outcome and a link to the page of the run.

    Args:
        dag_run: DAG run of Airflow.
        ended: Whether the run has ended.
    """
    # Imported here because every component imports this module with the plugin.
    from nightbid_airflow.page_links import run_page
    from nightbid_airflow.request import NightRequest

    pipeline = dag_run.dag_id.removeprefix(NIGHTLY)
    request = NightRequest.of(pipeline, dag_run, dag_run.conf or {})
    text = f"Night of {request.date}"
    if request.overrides:
        text += f", with {', '.join(request.overrides)}"
    if not ended:
        return text[:LONGEST]
    mark, how = outcome(pipeline, dag_run.run_id)
    link = f" [Page of the night]({run_page(pipeline, dag_run.run_id)})"
    return f"{mark} {text}: {how}"[: LONGEST - len(link)] + link


def outcome(pipeline: str, run_id: str) -> tuple[str, str]:
    """Get the outcome of a run from its records: a mark and a sentence.

    Args:
        pipeline: Name of the pipeline.
        run_id: Id of the run in Airflow.
    """
    from nightbid.config.settings import Settings
    from nightbid.errors import NightbidError
    from nightbid.night.record import RunRecord, safe_run_id, state_of
    from nightbid.storage.workspace import Workspace

    try:
        run = RunRecord.load(Workspace(Settings().workspace), pipeline, safe_run_id(run_id))
        newest = run.current()
    except NightbidError as error:
        return MARKS["failed"], error.what
    state, ended_by = state_of(run.head, newest)
    if ended_by:
        record = newest[ended_by]
        word = "stopped by" if state == "stopped" else "failed at"
        return MARKS[state], f"{word} {ended_by}: {record.error or record.summary}"
    lines = [newest[name].summary for name in ("evaluate", "promote") if name in newest]
    if "promote" not in newest:
        return MARKS["failed"], "; ".join(
            [*lines, "the run ended before promotion; see the log of the failed task"]
        )
    return MARKS["promoted" if "promoted as champion" in lines[-1] else "kept"], "; ".join(lines)
