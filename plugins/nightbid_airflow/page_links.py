"""Links from a task to its page: the findings of a gate, or the run.

Airflow stores the link of each finished task and shows it as a button.
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
    """Link to the page of a stage's output (a gate's findings), or else to the page of the run."""

    name = "Nightbid"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Get the address of the page, inside Airflow's frame.

        Args:
            operator: Operator with a `pipeline`, and with a `stage` if it runs one.
            ti_key: Key of the task instance.
        """
        pipeline = getattr(operator, "pipeline", "")
        run_id = safe_run_id(ti_key.run_id)
        stage = getattr(operator, "stage", "")
        try:
            run = RunRecord.load(Workspace(Settings().workspace), pipeline, run_id)
            record = run.stage(stage) if stage else None
        except ConfigError:
            record = None  # The run failed before its record was written.
        _, _, place = (record.uri if record else "").partition("stages/")
        if place:
            return f"{framed_address()}outputs/{quote(place)}"
        return run_page(pipeline, run_id)


def run_page(pipeline: str, run_id: str) -> str:
    """Get the address of the page of a run, inside Airflow's frame."""
    return f"{framed_address()}runs/{quote(pipeline)}/{quote(safe_run_id(run_id))}"


def data_check_page(name: str) -> str:
    """Get the address of the page of an inspected folder, inside Airflow's frame."""
    return f"{framed_address()}data-checks/{quote(name)}"
