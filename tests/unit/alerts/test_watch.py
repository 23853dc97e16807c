"""A missing night is detected from the workspace and reported once, by webhook and email."""

from __future__ import annotations

import datetime as dt
import json
import os
import socketserver
import threading
from pathlib import Path
from typing import Any

import pytest
from nightbid.alerts.message import AlertMessage, send
from nightbid.alerts.watch import Watch
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.night.attempts import StageRecord
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS

SPEC = """
pipeline: small
schedule: "0 3 * * *"
features: {ad_id: vocabulary}
"""
LAST = dt.datetime(2026, 1, 9, 3, 0, 30, tzinfo=dt.UTC)
"""The time when the schedule started its last night, 8 January."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with one scheduled pipeline."""
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    (pipelines / "small.yaml").write_text(SPEC)
    return Settings(
        workspace=str(tmp_path / "workspace"),
        pipelines=pipelines,
        cache=tmp_path / "cache",
        pages="https://airflow.example",
    )


def start_night(settings: Settings, *done: str, at: dt.datetime = LAST) -> RunRecord:
    """Record a scheduled night and its finished stages, one minute each."""
    spec = find_pipeline("small", settings.pipelines)
    night = at.date() - dt.timedelta(days=1)
    run = RunRecord.start(
        Workspace(settings.workspace), spec, night, run_id=f"s-{night}", trigger="schedule"
    )
    head = run.head.model_copy(update={"started": at})
    (run.folder / "run.json").write_text(head.model_dump_json())
    for minute, stage in enumerate(done):
        started = at + dt.timedelta(minutes=minute)
        run.record(StageRecord(stage=stage, state="done", started=started, seconds=60))
    return run


def kinds(settings: Settings, now: dt.datetime) -> list[str]:
    return [alert.message.kind for alert in Watch(settings).look(now)]


def test_a_missing_night_is_reported_once_within_15_minutes(settings) -> None:
    start_night(settings, "sample", "promote")
    due = LAST.replace(second=0) + dt.timedelta(days=1)
    assert kinds(settings, due + dt.timedelta(minutes=5)) == []
    messages: list[AlertMessage] = []
    watch = Watch(settings)
    for minute in range(5, 16):
        watch.tell(due + dt.timedelta(minutes=minute), messages.append)
    (message,) = messages
    assert (message.kind, message.night) == ("missing_night", "2026-01-09")
    assert "nightbid run small --date 2026-01-09" in message.text
    assert message.page == "https://airflow.example/plugin/nightbid/nightbid/nights/small"


def test_only_a_pipeline_that_is_expected_or_has_run_can_miss_a_night(
    settings,
) -> None:
    now = LAST + dt.timedelta(days=1, hours=1)
    assert kinds(settings, now) == []
    assert [a.message.kind for a in Watch(settings, expected=["small"]).look(now)] == [
        "missing_night"
    ]
    start_night(settings, "sample", "promote")
    assert kinds(settings, now) == ["missing_night"]
    start_night(settings, "sample", "promote", at=now)
    assert kinds(settings, now) == []


def test_a_night_without_progress_is_stalled_and_a_running_stage_is_not(settings) -> None:
    run = start_night(settings, "sample", "gate_raw")
    quiet = LAST + dt.timedelta(minutes=2)
    assert kinds(settings, quiet + dt.timedelta(minutes=5)) == []
    (alert,) = Watch(settings).look(quiet + dt.timedelta(minutes=11))
    assert alert.message.kind == "stalled_night"
    assert "after gate_raw" in alert.message.text
    # A running stage reports progress; a killed one does not.
    now = dt.datetime.now(dt.UTC)
    sample = {"at": now.timestamp(), "cpu_seconds": 1.0, "wall_seconds": 9.0, "done": 0.5}
    run.usage_file("featurize", 1).write_text(json.dumps(sample) + "\n")
    fresh = run.head.model_copy(update={"started": now - dt.timedelta(minutes=30)})
    (run.folder / "run.json").write_text(fresh.model_dump_json())
    assert "stalled_night" not in kinds(settings, now)


def test_a_night_that_starts_in_the_future_is_reported_as_a_clock_error(settings) -> None:
    start_night(settings, "sample", "gate_raw")
    earlier = LAST - dt.timedelta(hours=3)  # as if the clock had been set back
    (alert,) = Watch(settings).look(earlier)
    assert alert.message.kind == "stalled_night"
    assert "started 3.0 hours in the future: the machine's clock was set back" in alert.message.text
    assert kinds(settings, LAST - dt.timedelta(minutes=5)) == [], "clocks differ by some minutes"


def test_broken_yaml_and_damaged_records_are_reported(settings) -> None:
    run = start_night(settings, "sample", "promote")
    (settings.pipelines / "typo.yaml").write_text("pipeline: typo\nshcedule: x\n")
    (run.folder / "run.json").write_text("{")
    alerts = {alert.message.kind: alert.message for alert in Watch(settings).look(LAST)}
    assert set(alerts) == {"broken_pipeline", "damaged_record"}
    assert "did you mean 'schedule'" in alerts["broken_pipeline"].summary


def test_watch_once_posts_to_the_webhook_and_exits_6_for_a_new_alert(settings, webhook) -> None:
    address, taken = webhook
    now = dt.datetime.now(dt.UTC)
    # No other night begins between the two commands.
    far = (now.hour + 12) % 24
    (settings.pipelines / "small.yaml").write_text(SPEC.replace("0 3 *", f"0 {far} *"))
    start_night(settings, "sample", "promote", at=now - dt.timedelta(days=2))
    environment = os.environ | {
        "NIGHTBID_WORKSPACE": settings.workspace,
        "NIGHTBID_PIPELINES": str(settings.pipelines),
        "NIGHTBID_CACHE": str(settings.cache),
        "NIGHTBID_STOP_WEBHOOK": address,
    }
    codes = [
        COMMANDS.run("watch", "--once", "--missing", "0", env=environment).returncode
        for _ in range(2)
    ]
    assert codes == [6, 0], "reported once"
    assert [message["kind"] for message in taken] == ["missing_night"]
    assert "no champion yet" in taken[0]["serves"]


def test_alerts_are_sent_by_email(settings) -> None:
    lines: list[str] = []

    class Mail(socketserver.StreamRequestHandler):
        """Minimal SMTP server for one email."""

        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline().decode().rstrip("\r\n"):
                lines.append(line)
                if line.upper() == "QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                if line.upper() == "DATA":
                    self.wfile.write(b"354 go on\r\n")
                    while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                        lines.append(text)
                self.wfile.write(b"250 ok\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Mail) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        by_mail = settings.model_copy(
            update={"mail_to": "ann@example.org", "smtp": _secret(server.server_address[1])}
        )
        send(by_mail, AlertMessage("missing_night", "small", "nothing came", night="2026-01-09"))
        server.shutdown()
    assert "Subject: small 2026-01-09: nothing came" in lines
    assert "To: ann@example.org" in lines


def _secret(port: int) -> Any:
    from pydantic import SecretStr

    return SecretStr(f"smtp://127.0.0.1:{port}")
