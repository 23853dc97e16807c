"""The task in which a user approves the promotion, after the last gate."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from airflow.configuration import conf
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput, TaskDeferred
from airflow.triggers.base import TriggerEvent
from nightbid.clock import moment, seconds_since
from nightbid.config.settings import Settings
from nightbid.night.attempts import APPROVE, StageRecord
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.promotion import GATES
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace

from nightbid_airflow.page_links import PageLink, run_page

ASKED = "asked.json"
"""Name of the file in a run's folder about the last question: its time by the machine's uptime, the
task's `max_tries`, which grows whenever the task is cleared, and the answer known before it."""
SLACK_SECONDS = 60.0
PAUSE_SECONDS = 5.0 + conf.getint("workers", "min_heartbeat_interval")
"""Seconds between a deferral and the resumption of the task. Airflow considers a task lost if it
resumes before it has noticed the end of the task's previous process, at the latest with the next
heartbeat."""


class EarlierAnswer(HITLTrigger):
    """Reads the answer to a question that an earlier try of the task asked, if there is one."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Serialize the trigger."""
        return "nightbid_airflow.approval.EarlierAnswer", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire once: with the answer, or with a timeout if there is none."""
        await asyncio.sleep(PAUSE_SECONDS)
        try:
            async for event in super().run():
                yield event
        except Exception as error:  # the task asks again
            self.log.warning("the earlier answer cannot be read: %s", error)
            failure = {"error": str(error), "error_type": "timeout"}
            yield TriggerEvent(failure)  # type: ignore[no-untyped-call]


class PromotionApproval(ApprovalOperator):
    """Asks a user whether to promote, showing verdicts and report; a rejection skips the promotion.

    Without an answer in time the champion stays, and the run records why. If the clock is set
    forward, the question does not expire early, as long as the machine has not restarted.

    Args:
        pipeline: Name of the pipeline's YAML file.
        hours: Hours to wait for an answer.
    """

    operator_extra_links = (PageLink(),)

    def __init__(self, *, pipeline: str, hours: float, **arguments: Any) -> None:
        super().__init__(
            subject=f"Promote tonight's {pipeline} model?",
            response_timeout=dt.timedelta(hours=hours),
            **arguments,
        )
        self.pipeline = pipeline
        self.hours = hours

    def execute(self, context: Context) -> Any:
        """Ask with the verdicts of the night, and wait.

        If a user answers before the process that asked has ended, Airflow considers the task lost
        and retries it. The retry uses the answer that was given; without one it asks again.
        """
        run, ti = self._run(context), context["ti"]
        asked = _asked(run)
        first_try = ti.max_tries - (self.retries or 0) + 1  # since the task was last cleared
        if ti.try_number > first_try and asked.get("max_tries") == ti.max_tries:
            answer = run.newest(APPROVE)
            if answer and answer.by and asked.get("before") != answer.started.isoformat():
                option = self.APPROVE if answer.state == "done" else self.REJECT
                person = {"id": answer.by, "name": answer.by}
                event = {"chosen_options": [option], "params_input": {},
                         "responded_at": answer.started, "responded_by_user": person}  # fmt: skip
                return super().execute_complete(context, event)
            # Airflow keeps the answer, but only a trigger can read it; asking again deletes it.
            trigger = EarlierAnswer(
                ti_id=ti.id,
                options=self.options,
                params=self.serialized_params,
                timeout_datetime=dt.datetime.now(dt.UTC),
            )
            self.defer(trigger=trigger, method_name="take_earlier_answer")
        return self._ask(run, context)

    def take_earlier_answer(self, context: Context, event: dict[str, Any]) -> Any:
        """Use the answer that an earlier try received; without one, ask again.

        Raises: see `execute_complete`.
        """
        if "error" in event:
            return self._ask(self._run(context), context)
        return self.execute_complete(context, event)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Record the decision and the user; a rejection or a timeout ends the run as stopped.

        Raises:
            AirflowFailException: There was no answer in time.
        """
        answer = event.get("chosen_options") or []
        person = str((event.get("responded_by_user") or {}).get("name") or "")
        if "error" in event:
            late = event.get("error_type") == "timeout"
            if late and (left := self._seconds_left(context)) > SLACK_SECONDS:
                self.log.warning(
                    "the clock was set forward: the approval stays open for another %.1f hours",
                    left / 3600,
                )
                self.response_timeout = dt.timedelta(seconds=left)
                run = self._run(context)
                self.body = question(run, context["dag_run"].run_id, self.hours)
                return super().execute(context)
            reason = f"no answer in {_hours(self.hours)}" if late else str(event["error"])
            self._record(context, "stopped", f"not promoted: {reason}", "")
            # Fail without a retry, which would ask again.
            raise AirflowFailException(f"not promoted: {reason}")
        if answer == [self.APPROVE]:
            self._record(context, "done", f"approved by {person or 'an unknown user'}", person)
        else:
            reason = f"not promoted: rejected by {person or 'an unknown user'}"
            self._record(context, "stopped", reason, person)
        return super().execute_complete(context, event)

    def _ask(self, run: RunRecord, context: Context) -> Any:
        self.body = question(run, context["dag_run"].run_id, self.hours)
        answer = run.newest(APPROVE)
        asked = {
            **moment(),
            "max_tries": context["ti"].max_tries,
            "before": answer and answer.started.isoformat(),
        }
        try:
            return super().execute(context)
        except (TaskAwaitingInput, TaskDeferred):
            # Only now has Airflow deleted the answer to an earlier question.
            write_atomically(run.folder / ASKED, json.dumps(asked))
            raise

    def _run(self, context: Context) -> RunRecord:
        run_id = safe_run_id(context["dag_run"].run_id)
        return RunRecord.load(Workspace(Settings().workspace), self.pipeline, run_id)

    def _seconds_left(self, context: Context) -> float:
        """Get the seconds until the question expires, by the machine's uptime; 0 if unknown."""
        passed = seconds_since(_asked(self._run(context)))
        return 0.0 if passed is None else self.hours * 3600 - passed

    def _record(
        self, context: Context, state: Literal["done", "stopped"], summary: str, person: str
    ) -> None:
        self._run(context).record(
            StageRecord(
                stage=APPROVE,
                state=state,
                started=dt.datetime.now(dt.UTC),
                seconds=0,
                summary=summary,
                by=person,
            )
        )


def _asked(run: RunRecord) -> dict[str, Any]:
    """Read the file about the last question; empty if there is none, or it is damaged."""
    try:
        asked = json.loads((run.folder / ASKED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return asked if isinstance(asked, dict) else {}


def question(run: RunRecord, run_id: str, hours: float) -> str:
    """Write the text of the question as Markdown: verdicts, links and deadline.

    Args:
        run: Record of the run.
        run_id: Id of the run in Airflow.
        hours: Hours until the question expires.
    """
    page = run_page(run.head.pipeline, run_id)
    lines = [f"**[Report of the night of {run.date}]({page})**", ""]
    evaluated = run.stage("evaluate")
    if evaluated is not None:
        lines += [f"The candidate is {evaluated.summary}.", ""]
    for gate in GATES:
        record = run.stage(gate)
        if record is not None:
            lines.append(f"- {gate}: **{record.verdict}**, {record.summary}")
    return "\n".join([*lines, "", f"If nobody answers within {_hours(hours)}, the champion stays."])


def _hours(hours: float) -> str:
    return f"{hours:g} hour{'s' * (hours != 1)}"
