"""A deferred task before `sample` that waits for the newest day of logs, and its trigger."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, DataError
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.storage.workspace import Workspace

from nightbid_airflow.page_links import PageLink
from nightbid_airflow.request import NightRequest


class ArrivalTrigger(BaseTrigger):
    """Polls the newest day of a night until it is complete or the deadline has passed.

    The trigger has no state of its own, so a restarted triggerer continues polling.

    Args:
        workspace: Root URI of the workspace.
        pipeline: Name of the pipeline.
        run_id: Id of the run in the records.
        cache: Folder of the local cache, for what was found in large files.
        every: Seconds between polls.
    """

    def __init__(
        self, workspace: str, pipeline: str, run_id: str, cache: str, every: float = 60.0
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workspace = workspace
        self.pipeline = pipeline
        self.run_id = run_id
        self.cache = cache
        self.every = every
        self._said = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Serialize the trigger."""
        return (
            "nightbid_airflow.arrival.ArrivalTrigger",
            {
                "workspace": self.workspace,
                "pipeline": self.pipeline,
                "run_id": self.run_id,
                "cache": self.cache,
                "every": self.every,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait is over; fire once."""
        while (seconds := await asyncio.to_thread(self._look)) > 0:
            await asyncio.sleep(seconds)
        yield TriggerEvent({"looked": True})  # type: ignore[no-untyped-call]

    def _look(self) -> float:
        """Poll once; return 0 if the task can resume, else the seconds until the next poll."""
        # Imported here because the DAG file imports this module, and reading logs is heavy.
        from nightbid.arrival.wait import look, waiting_words

        run = RunRecord.load(Workspace(self.workspace), self.pipeline, self.run_id)
        spec = PipelineSpec.model_validate(run.head.spec)
        now = dt.datetime.now(dt.UTC)
        ends = spec.arrival_deadline(run.date)
        if ends is None or now >= ends:
            return 0.0
        arrival = look(spec, run, Path(self.cache), now)
        if arrival.is_complete:
            return 0.0
        if (message := waiting_words(spec, run, arrival)) != self._said:
            self.log.info("%s", message)
            self._said = message
        return min(self.every, (ends - now).total_seconds())


class ArrivalSensor(BaseOperator):
    """Waits for the newest day of the night, deferred to the triggerer.

    At the deadline the night continues with an older day if `arrival.lag_days` allows it; otherwise
    it stops.

    Args:
        pipeline: Name of the pipeline's YAML file.
    """

    ui_color = "#e6f4ea"
    operator_extra_links = (PageLink(),)

    def __init__(self, *, pipeline: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pipeline = pipeline

    def execute(self, context: Context) -> str:
        """Check once, and wait in the triggerer if the day is not complete.

        Raises:
            AirflowFailException: The settings are wrong, or the day did not arrive in time.
        """
        return self._go(context, dt.datetime.now(dt.UTC), may_wait=True)

    def resume(self, context: Context, event: dict[str, Any], began: str = "") -> str:
        """Check again after the trigger has fired: the day is complete or the deadline has passed.

        Raises: see `execute`.
        """
        then = dt.datetime.fromisoformat(began) if began else dt.datetime.now(dt.UTC)
        return self._go(context, then, may_wait=False)

    def _go(self, context: Context, began: dt.datetime, *, may_wait: bool) -> str:
        from nightbid.arrival.wait import conclude, look

        settings = Settings()
        try:
            request = NightRequest.of(self.pipeline, context["dag_run"], context["params"])
            # A cleared task starts with the current YAML and without a previously accepted lag.
            is_cleared = may_wait and context["ti"].max_tries > (self.retries or 0)
            spec, run = request.open(settings, is_cleared=is_cleared)
            ends = spec.arrival_deadline(run.date)
            if spec.arrival is None or ends is None:
                return "the pipeline no longer has an `arrival` block"
            now = dt.datetime.now(dt.UTC)
            arrival = look(spec, run, settings.cache, now)
            if not arrival.is_complete and now < ends:
                self.log.info("%s: %s", arrival.day, ", ".join(arrival.missing))
                self.defer(
                    trigger=ArrivalTrigger(
                        workspace=settings.workspace,
                        pipeline=self.pipeline,
                        run_id=safe_run_id(context["dag_run"].run_id),
                        cache=str(settings.cache),
                        every=spec.arrival.every_seconds,
                    ),
                    method_name="resume",
                    kwargs={"began": began.isoformat()},
                )
            _, message = conclude(spec, run, settings.cache, arrival, now=now, started=began)
        except (ConfigError, DataError) as error:
            raise AirflowFailException(str(error)) from None
        self.log.info("%s", message)
        return message
