"""From a task to its page: what a gate found, or the run so far.

Airflow keeps a link per task that has ended, and shows it as a button.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperator, BaseOperatorLink
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.storage.workspace import Workspace

from nightbid_airflow.views.asgi import framed_address


class PageLink(BaseOperatorLink):
    """The output's page of a stage (a gate's findings); of any other task the run's."""

    name = "Nightbid"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Give its address inside Airflow's frame.

        Args:
            operator: with a `pipeline`, and a `stage` if it runs one.
            ti_key: of its task instance.
        """
        pipeline = getattr(operator, "pipeline", "")
        run_id = safe_run_id(ti_key.run_id)
        stage = getattr(operator, "stage", "")
        try:
            run = RunRecord.load(Workspace(Settings().workspace), pipeline, run_id)
            record = run.stage(stage) if stage else None
        except ConfigError:
            record = None  # It failed before there was a record.
        _, _, place = (record.uri if record else "").partition("stages/")
        if place:
            return f"{framed_address()}outputs/{quote(place)}"
        return run_page(pipeline, run_id)


def run_page(pipeline: str, run_id: str) -> str:
    """Address of a run's page, inside Airflow's frame."""
    return f"{framed_address()}runs/{quote(pipeline)}/{quote(safe_run_id(run_id))}"


def data_check_page(name: str) -> str:
    """Address of the page of a folder of logs, inside Airflow's frame."""
    return f"{framed_address()}data-checks/{quote(name)}"
