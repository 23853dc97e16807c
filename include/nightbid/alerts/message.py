"""Alert messages about a night, sent to a webhook or by mail."""

from __future__ import annotations

import json
import smtplib
import urllib.request
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.night.champion import ChampionPointer
from nightbid.storage.workspace import Workspace

AlertKind = Literal[
    "gate_stopped", "failed", "missing_night", "late_night", "stalled_night",
    "broken_pipeline", "damaged_record",
]  # fmt: skip
TIMEOUT_SECONDS = 10
PAGES = "/plugin/nightbid/nightbid/"
"""Path of Nightbid's pages within Airflow."""


@dataclass(frozen=True)
class AlertMessage:
    """Content of an alert. `text` is for people and chats, the other fields for programs."""

    kind: AlertKind
    pipeline: str
    summary: str
    """The problem, its location and the remedy, in one line."""
    night: str = ""
    run_id: str = ""
    stage: str = ""
    page: str = ""
    """Web address of the page with details."""
    runbook: str = ""
    """Web address of the runbook entry."""
    log: str = ""
    """Web address of the task's log."""
    serves: str = ""
    """Description of what currently serves."""

    @property
    def text(self) -> str:
        """The message as lines of plain text."""
        head = f"{self.pipeline} {self.night}".strip()
        prefix = {
            "gate_stopped": f"{self.stage} stopped the night: ",
            "failed": f"{self.stage} failed: ",
        }.get(self.kind, "")
        lines = [f"{head}: {prefix}{self.summary}"]
        for title, value in (
            ("in service meanwhile", self.serves),
            ("page", self.page),
            ("what to do", self.runbook),
            ("log", self.log),
        ):
            if value:
                lines.append(f"{title}: {value}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All fields, with the text."""
        return {"text": self.text, **asdict(self)}


@dataclass(frozen=True)
class Alert:
    """A message with a key; each key is sent once."""

    key: str
    message: AlertMessage


def page_address(base: str, *path: str) -> str:
    """Web address of a page in Airflow; empty if Airflow's address is unknown.

    Args:
        base: Web address of Airflow.
        path: Parts of the path below Nightbid's pages.
    """
    if not base:
        return ""
    return base.rstrip("/") + PAGES + "/".join(quote(part, safe="") for part in path)


def what_serves(workspace: Workspace, pipeline: str) -> str:
    """Describe which champion serves, and since when."""
    try:
        champion = ChampionPointer(workspace, pipeline).current()
    except CorruptDataError as error:
        return f"unknown: {error}"
    if champion is None:
        return "nothing: there is no champion yet"
    return (
        f"champion #{champion.number}, run {champion.run_id} of night {champion.night},"
        f" since {champion.since:%Y-%m-%d %H:%M} UTC"
    )


def send(settings: Settings, message: AlertMessage) -> list[str]:
    """Send a message to the targets in the settings.

    Args:
        settings: Settings with the webhook and the mail server.
        message: Message to send.

    Returns:
        Description of each target; empty if none is set.

    Raises:
        ConfigError: An address in the settings is wrong.
        OSError: A server did not accept the message.
    """
    sent = []
    if settings.stop_webhook:
        _post(settings.stop_webhook, message)
        sent.append("webhook")
    if settings.mail_to:
        _mail(settings, message)
        sent.append(f"mail to {settings.mail_to}")
    return sent


def _post(address: str, message: AlertMessage) -> None:
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            "it is not a web address",
            where="NIGHTBID_STOP_WEBHOOK",
            hint="write it as https://host/path; it may be secret, so it is not shown",
        )
    request = urllib.request.Request(  # noqa: S310 - checked above
        address,
        data=json.dumps(message.to_json()).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
        pass


def _mail(settings: Settings, message: AlertMessage) -> None:
    parts = urlsplit(settings.smtp.get_secret_value() if settings.smtp else "")
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ConfigError(
            "NIGHTBID_MAIL_TO is set, but NIGHTBID_SMTP is not a mail server",
            where="NIGHTBID_SMTP",
            hint="write it as smtp://user:password@host:587 or smtps://host",
        )
    mail = EmailMessage()
    mail["Subject"] = message.text.splitlines()[0][:200]
    mail["From"] = settings.mail_from
    mail["To"] = settings.mail_to
    mail.set_content(message.text)
    secure = parts.scheme == "smtps"
    kind = smtplib.SMTP_SSL if secure else smtplib.SMTP
    port = parts.port or (465 if secure else 25)
    with kind(parts.hostname, port, timeout=TIMEOUT_SECONDS) as server:
        if not secure and server.has_extn("starttls"):
            server.starttls()
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        server.send_message(mail)
