"""The cost sensor: a task in parallel to the stages of a night that watches the costs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from nightbid.config.settings import Settings

from nightbid_airflow.triggers import CostTrigger


class CostSensor(BaseOperator):
    """Defers to the triggerer until the night ends, and fails the run if a limit is exceeded.

    Args:
        pipeline: Name of the pipeline whose budget applies.
    """

    ui_color = "#fef7e0"

    def __init__(self, *, pipeline: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pipeline = pipeline

    def execute(self, context: Context) -> None:
        """Defer to the trigger."""
        run = context["dag_run"]
        if run.triggering_user_name == "dag_test":
            # There is no triggerer, and waiting would block the tasks that it waits for.
            raise AirflowSkipException(
                "dag.test() runs one task at a time: there is nothing to watch"
            )
        settings = Settings()
        self.defer(
            trigger=CostTrigger(
                dag_id=run.dag_id,
                run_id=run.run_id,
                task_id=self.task_id,
                pipeline=self.pipeline,
                workspace=settings.workspace,
                every=settings.poll_seconds,
            ),
            method_name="conclude",
        )

    def conclude(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """Handle the trigger's event.

        Raises:
            AirflowFailException: A limit was exceeded; the stage was asked to stop.
        """
        if event["over"]:
            raise AirflowFailException(event["over"])
        if event["unusual"]:
            self.log.warning("unusual: %s", event["unusual"])
        self.log.info("the night has cost %s USD at cloud prices", event["spent_usd"])
        return {"spent_usd": event["spent_usd"]}
