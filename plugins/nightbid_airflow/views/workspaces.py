"""Workspace lookups of the pages, limited to what the user may see."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Iterable

from fastapi import HTTPException
from nightbid.addresses import shown
from nightbid.alerts.message import Alert
from nightbid.alerts.watch import Watch
from nightbid.config.settings import Settings
from nightbid.errors import CorruptDataError, NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.report import records
from nightbid.report.summaries import Summaries
from nightbid.storage.workspace import Workspace

from nightbid_airflow.views.current_user import CurrentUser

LOG = logging.getLogger(__name__)


class Workspaces:
    """Workspace lookups of the pages: names in requests are looked up, never used as paths."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.workspace = Workspace(settings.workspace)
        self.summaries = Summaries(self.workspace, settings.cache)
        self.mlflow = settings.tracking_pages or (
            shown(settings.tracking or "")
            if (settings.tracking or "").startswith(("http:", "https:"))
            else ""
        )

    def pipelines(self, reader: CurrentUser) -> list[str]:
        """List the pipelines that have run and that the user may see."""
        return reader.readable(records.pipelines(self.workspace))

    def champions(self, names: Iterable[str]) -> dict[str, Champion]:
        """Map each pipeline that has a champion with a readable history to its champion."""
        champions = {}
        for name in names:
            with contextlib.suppress(CorruptDataError):
                if (champion := ChampionPointer(self.workspace, name).current()) is not None:
                    champions[name] = champion
        return champions

    def damaged(self, pipeline: str) -> list[str]:
        """List the runs whose records exist but cannot be read."""
        return [
            run_id
            for run_id in records.run_ids(self.workspace, pipeline)
            if records.run(self.workspace, pipeline, run_id) is None
            and (self.workspace.run_folder(pipeline, run_id) / "run.json").exists()
        ]

    def attention(self, reader: CurrentUser, pipeline: str = "") -> list[Alert]:
        """List the current alerts of `nightbid watch` for pipelines that the user may see."""
        try:
            alerts = Watch(self._settings).look(dt.datetime.now(dt.UTC))
        except (NightbidError, OSError, ValueError):
            LOG.exception("the watch failed")
            return []
        return [
            alert
            for alert in alerts
            if alert.message.kind != "damaged_record"
            and pipeline in ("", alert.message.pipeline)
            and reader.may_read(alert.message.pipeline)
        ]

    def open(self, pipeline: str, reader: CurrentUser) -> list[str]:
        """List the names of the runs of a pipeline.

        Raises:
            HTTPException: There are no runs, or the user may not see them; the response does not
                reveal which.
        """
        if pipeline not in records.pipelines(self.workspace) or not reader.may_read(pipeline):
            raise HTTPException(
                404, f"Pipeline {pipeline!r} does not exist, or you have no access to it."
            )
        return records.run_ids(self.workspace, pipeline)

    def run(self, pipeline: str, run_id: str, reader: CurrentUser) -> RunRecord:
        """Get the record of a run.

        Raises:
            HTTPException: There is no such run, or the user may not see it.
        """
        known = run_id in self.open(pipeline, reader)
        record = records.run(self.workspace, pipeline, run_id) if known else None
        if record is None:
            raise HTTPException(404, f"Pipeline {pipeline!r} has no run {run_id!r}.")
        return record
