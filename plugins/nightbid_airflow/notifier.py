"""Sends a message when a task of a night has failed: a gate stopped, a crash, a budget limit.

The notifier is attached to every task of a night. The installation chooses where the message goes:
a webhook (`NIGHTBID_STOP_WEBHOOK`), mail (`NIGHTBID_MAIL_TO`) or any Airflow notifier
(`NIGHTBID_STOP_NOTIFIER=module:Class`, created without arguments), which finds the message in its
context as `nightbid`. `nightbid watch` detects nights that never start.
"""

from __future__ import annotations

import importlib

from airflow.configuration import conf
from airflow.sdk.bases.notifier import BaseNotifier
from airflow.sdk.definitions.context import Context
from nightbid.alerts.message import AlertMessage, page_address, send, what_serves
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.storage.workspace import Workspace


class StopNotifier(BaseNotifier):
    """Sends one message when a task of a night has failed and has no retries left.

    Args:
        pipeline: Name of the pipeline.
        stage: Name of the task.
    """

    def __init__(self, pipeline: str = "", stage: str = "") -> None:
        super().__init__()
        self.pipeline = pipeline
        self.stage = stage

    def notify(self, context: Context) -> None:
        """Send the message. Airflow logs errors of this method; the task stays failed.

        Raises:
            ConfigError: The notifier of the installation does not exist.
            OSError: The webhook or the mail server did not accept the message.
        """
        settings = Settings()
        if not (settings.stop_webhook or settings.stop_notifier or settings.mail_to):
            return
        message = self.message(context, settings)
        try:
            send(settings, message)
        finally:
            # If one recipient is down, the message still goes to the others.
            if settings.stop_notifier:
                notifier = _named(settings.stop_notifier)()
                notifier({**context, "nightbid": message.to_json()})

    def message(self, context: Context, settings: Settings) -> AlertMessage:
        """Write the message: what stopped and why, what serves meanwhile, and links."""
        run_id = safe_run_id(context["dag_run"].run_id)
        workspace = Workspace(settings.workspace)
        base = settings.pages or conf.get("api", "base_url", fallback="") or ""
        night, summary, page, stopped = "", "", "", False
        try:
            run = RunRecord.load(workspace, self.pipeline, run_id)
            night = run.date.isoformat()
            record = run.stage(self.stage)
            page = page_address(base, "runs", self.pipeline, run_id)
            if record is not None and record.state != "done":
                summary = record.summary or record.error
                stopped = record.state == "stopped"
        except (ConfigError, CorruptDataError):
            pass  # The night failed before its record was written, or the record is damaged.
        summary = summary or str(context.get("exception") or "failed without a verdict")
        return AlertMessage(
            kind="gate_stopped" if stopped else "failed",
            pipeline=self.pipeline,
            summary=summary,
            night=night,
            run_id=run_id,
            stage=self.stage,
            page=page or page_address(base, "nights", self.pipeline),
            runbook=page_address(base, "checks", self.stage.removeprefix("gate_"))
            if stopped and self.stage.startswith("gate_")
            else "",
            log=getattr(context.get("ti"), "log_url", "") or "",
            serves=what_serves(workspace, self.pipeline),
        )


def _named(path: str) -> type[BaseNotifier]:
    module, _, name = path.partition(":")
    try:
        notifier: type[BaseNotifier] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no notifier {path!r}: {error}",
            where="NIGHTBID_STOP_NOTIFIER",
            hint="write it as package.module:Class",
        ) from error
    return notifier
