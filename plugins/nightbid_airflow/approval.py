"""A person between the last gate and the promotion."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import TriggerEvent
from nightbid.clock import moment, seconds_since
from nightbid.config.settings import Settings
from nightbid.night.attempts import APPROVE, StageRecord
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.promotion import GATES
from nightbid.storage.workspace import Workspace, write_atomically

from nightbid_airflow.page_links import PageLink, run_page

ASKED = "asked.json"
"""File of a run whose promotion a person was asked about: when, by the machine's uptime."""
SLACK_SECONDS = 60.0
PAUSE_SECONDS = 10.0
"""Between a deferral and the next part of the task: Airflow takes a task for lost that goes on
before the process of the part before has ended, within some five seconds."""


class EarlierAnswer(HITLTrigger):
    """Reads the answer to a question that an earlier try of the task put, if there is one."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Serialize the trigger."""
        return "nightbid_airflow.approval.EarlierAnswer", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire once: with the answer, or with a timeout if nobody has answered."""
        await asyncio.sleep(PAUSE_SECONDS)
        try:
            async for event in super().run():
                yield event
        except Exception as error:  # the question is put again
            self.log.warning("the earlier answer cannot be read: %s", error)
            failure = {"error": str(error), "error_type": "timeout"}
            yield TriggerEvent(failure)  # type: ignore[no-untyped-call]


class PromotionApproval(ApprovalOperator):
    """Asks whether to promote, with the verdicts and the report; a rejection skips the promotion.

    Without an answer in time the champion stays, and the run says why. A clock that is put forward
    ends the question no earlier, where the machine is still the one that asked.

    Args:
        pipeline: name of the pipeline's YAML file.
        hours: how long it waits.
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
        """Put the night's verdicts into the question, and wait.

        Airflow takes a task for lost that is answered before the process that put the question has
        ended, and tries it again: an answer that was given counts, else the question is put again.
        """
        run = self._run(context)
        ti, answer = context["ti"], run.newest(APPROVE)
        is_second_try = ti.try_number > 1 and ti.max_tries <= (self.retries or 0)
        if is_second_try and answer is not None and answer.by:
            said = self.APPROVE if answer.state == "done" else self.REJECT
            person = {"id": answer.by, "name": answer.by}
            event = {"chosen_options": [said], "params_input": {}, "responded_at": answer.started,
                     "responded_by_user": person}  # fmt: skip
            return super().execute_complete(context, event)
        if is_second_try and (run.folder / ASKED).exists():
            # Airflow keeps the answer, and a triggerer alone can read it; to ask would delete it.
            trigger = EarlierAnswer(
                ti_id=ti.id,
                options=self.options,
                params=self.serialized_params,
                timeout_datetime=dt.datetime.now(dt.UTC),
            )
            self.defer(trigger=trigger, method_name="take_earlier_answer")
        return self._ask(run, context)

    def take_earlier_answer(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on with the answer that an earlier try got; without one, put the question again.

        Raises: see `execute_complete`.
        """
        if "error" in event:
            return self._ask(self._run(context), context)
        return self.execute_complete(context, event)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Record who decided what; a rejection, or no answer in time, ends the run as stopped.

        Raises:
            AirflowFailException: nobody answered in time.
        """
        answer = event.get("chosen_options") or []
        person = str((event.get("responded_by_user") or {}).get("name") or "")
        if "error" in event:
            late = event.get("error_type") == "timeout"
            if late and (left := self._seconds_left(context)) > SLACK_SECONDS:
                self.log.warning(
                    "the clock was put forward: the question stands for another %.1f hours",
                    left / 3600,
                )
                self.response_timeout = dt.timedelta(seconds=left)
                run = self._run(context)
                self.body = question(run, context["dag_run"].run_id, self.hours)
                return super().execute(context)
            said = f"no answer in {_hours(self.hours)}" if late else str(event["error"])
            self._record(context, "stopped", f"not promoted: {said}", "")
            # Nobody is asked again.
            raise AirflowFailException(f"not promoted: {said}")
        if answer == [self.APPROVE]:
            self._record(context, "done", f"approved by {person or 'somebody'}", person)
        else:
            said = f"not promoted: rejected by {person or 'somebody'}"
            self._record(context, "stopped", said, person)
        return super().execute_complete(context, event)

    def _ask(self, run: RunRecord, context: Context) -> Any:
        write_atomically(run.folder / ASKED, json.dumps(moment()))
        self.body = question(run, context["dag_run"].run_id, self.hours)
        return super().execute(context)

    def _run(self, context: Context) -> RunRecord:
        run_id = safe_run_id(context["dag_run"].run_id)
        return RunRecord.load(Workspace(Settings().workspace), self.pipeline, run_id)

    def _seconds_left(self, context: Context) -> float:
        """How long the question should still stand by the machine's uptime; 0 if unknown."""
        try:
            asked = json.loads((self._run(context).folder / ASKED).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return 0.0
        passed = seconds_since(asked)
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


def question(run: RunRecord, run_id: str, hours: float) -> str:
    """What a person needs to decide, as Markdown.

    Args:
        run: its record.
        run_id: as Airflow has it.
        hours: how long the question stands.
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
    return "\n".join([*lines, "", f"Without an answer in {_hours(hours)} the champion stays."])


def _hours(hours: float) -> str:
    return f"{hours:g} hour{'s' * (hours != 1)}"
