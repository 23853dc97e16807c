"""Tells somebody that a gate has stopped the night.

Attached to every gate's task. Where the message goes is a matter of the installation: a webhook
(`NIGHTBID_STOP_WEBHOOK`), or any notifier of Airflow's (`NIGHTBID_STOP_NOTIFIER=module:Class`,
made without arguments), which finds the message in its context as `nightbid`.
"""

from __future__ import annotations

import importlib
from typing import Any

from airflow.sdk.bases.notifier import BaseNotifier
from airflow.sdk.definitions.context import Context
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.storage.workspace import Workspace

TIMEOUT_SECONDS = 10


class StopNotifier(BaseNotifier):
    """Sends one message when a gate's task fails.

    Args:
        pipeline: name of the pipeline.
        gate: name of the gate's stage.
    """

    def __init__(self, pipeline: str = "", gate: str = "") -> None:
        super().__init__()
        self.pipeline = pipeline
        self.gate = gate

    def notify(self, context: Context) -> None:
        """Send the message. What goes wrong here is logged by Airflow; the stop stands.

        Raises:
            ConfigError: the notifier of the installation does not exist.
            httpx.HTTPError: the webhook did not take the message.
        """
        settings = Settings()
        if not (settings.stop_webhook or settings.stop_notifier):
            return
        message = self.message(context, settings)
        if settings.stop_webhook:
            _post(settings.stop_webhook, message)
        if settings.stop_notifier:
            _named(settings.stop_notifier)()({**context, "nightbid": message})

    def message(self, context: Context, settings: Settings) -> dict[str, Any]:
        """Say what stopped, where and why: `text` for people (and chats), the rest for programs."""
        run_id = safe_run_id(context["dag_run"].run_id)
        night, summary, page = "", "", ""
        try:
            run = RunRecord.load(Workspace(settings.workspace), self.pipeline, run_id)
            night = run.date.isoformat()
            record = run.stage(self.gate)
            if record is not None:
                summary = record.summary or record.error
                page = f"{record.uri}/index.html" if record.uri else ""
        except ConfigError:
            pass  # The night failed before it had a record.
        summary = summary or str(context.get("exception") or "failed without a verdict")
        return {
            "text": f"{self.pipeline} {night}: {self.gate} stopped the night: {summary}",
            "pipeline": self.pipeline,
            "night": night,
            "run_id": run_id,
            "gate": self.gate,
            "summary": summary,
            "page": page,
            "log": getattr(context.get("ti"), "log_url", ""),
        }


def _post(address: str, message: dict[str, Any]) -> None:
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address!r} is no web address",
            where="NIGHTBID_STOP_WEBHOOK",
            hint="write it as https://host/path",
        )
    # Not for the parsing of a DAG.
    import httpx

    httpx.post(address, json=message, timeout=TIMEOUT_SECONDS).raise_for_status()


def _named(path: str) -> type[BaseNotifier]:
    module, _, name = path.partition(":")
    try:
        found: type[BaseNotifier] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no notifier {path!r}: {error}",
            where="NIGHTBID_STOP_NOTIFIER",
            hint="write it as package.module:Class",
        ) from error
    return found
