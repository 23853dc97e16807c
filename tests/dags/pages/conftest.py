"""Serve the pages in Airflow's real API server, with a workspace and two users."""

from __future__ import annotations

import datetime as dt
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from bundles import put_bundle
from nightbid.config.pipeline import PipelineSpec
from nightbid.data_check.saved import SavedCheck
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.rehearse.bisect import Cause
from nightbid.rehearse.findings import RehearsalFinding
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.rehearse.report import RehearsalReport, report_folder
from nightbid.storage.workspace import Workspace

CLIENT: dict[str, Any] = {"trust_env": False, "timeout": 120}
"""Options of every client: the first page builds them all, and the default timeout is 5 s."""
GATE = "outputs/small/gate_raw/0123456789abcdef"
"""Address of a gate's output."""
REHEARSED = RehearsalReport(
    plan=RehearsalPlan(
        name="try-numpy", pipeline="small", date=dt.date(2026, 1, 8), frozen="rows", seeds=2,
        first_seed=0, margin=0.002, present={"numpy": "==2.4.6"}, candidate={"numpy": "==2.3.5"},
    ),
    changes=("numpy 2.4.6 → 2.3.5",),
    verdict="not safe",
    findings=(
        RehearsalFinding(kind="metrics", subject="log_loss", text="a figure differs", grave=True),
    ),
    causes=(Cause(kind="metrics", packages=("numpy 2.4.6 → 2.3.5",), steps=1, finished=True),),
    compared=dict.fromkeys(
        ("features_equal", "features", "metrics", "training", "predictions", "models", "serving",
         "speed", "warnings", "records"), ()
    ),
    cost_usd=Decimal("0.01"),
    seconds=60,
    created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC),
)  # fmt: skip
CHECK = SavedCheck(
    name="first", folder="/data/ad_logs", created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC), by="ann",
    report={
        "pipeline": "ad_logs", "source": {"kind": "parquet", "folder": "/data/ad_logs"},
        "days": ["2026-01-07", "2026-01-08"], "gaps": [], "sampled": {"2026-01-08": 300},
        "unread": {}, "columns": [], "roles": {}, "missing": {"user": "an id of people"},
        "label": "click", "labels": [], "event_time": None, "outcomes": {}, "clocks": [],
        "repeated_keys": 0, "yaml": "features: {ad_id: vocabulary}",
    },
)  # fmt: skip


@pytest.fixture(scope="package")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Make a workspace with two failed runs, a gate's output and a champion."""
    page_workspace = Workspace(str(tmp_path_factory.mktemp("pages") / "workspace"))
    spec = PipelineSpec.model_validate(
        {"pipeline": "small", "features": {"platform": {"column": "platform"}}}
    )
    night = dt.date(2026, 1, 8)
    for name in ("small-1", "small-2"):
        run = RunRecord.start(page_workspace, spec, night, run_id=name, trigger="airflow")
        started = dt.datetime(2026, 1, 9, tzinfo=dt.UTC)
        run.record(
            StageRecord(
                stage="sample", state="failed", error="the disk is full", seconds=1, started=started
            )
        )
    gate = page_workspace.at(GATE.replace("outputs", "stages"))
    gate.mkdir(parents=True)
    (gate / "index.html").write_text('<p>what the gate saw</p><a href="gate.json">')
    (gate / "gate.json").write_text('{"verdict": "stop"}')
    (gate / "model.bin").write_text("not for pages")
    rehearsed = report_folder(page_workspace, REHEARSED.plan)
    rehearsed.mkdir(parents=True)
    (rehearsed / "rehearsal.json").write_text(REHEARSED.model_dump_json())
    (page_workspace.root / "data_checks").mkdir()
    (page_workspace.root / "data_checks" / "first.json").write_text(CHECK.model_dump_json())
    (page_workspace.root / "secret.txt").write_text("not for everybody")
    put_bundle(page_workspace, "stages/x", "b" * 64)
    ChampionPointer(page_workspace, "small").promote(
        run_id="small-1",
        night=night,
        bundle_uri="stages/x",
        bundle_digest="b" * 64,
        reason="better",
    )
    return page_workspace


@pytest.fixture(scope="package")
def server(
    workspace: Workspace, airflow_database: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Start Airflow's API server with the plugin on a free port."""
    folder: Path = tmp_path_factory.mktemp("api")
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({"ann": "secret", "eve": "secret"}))
    with pytest.MonkeyPatch.context() as patch, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        patch.setenv("NIGHTBID_WORKSPACE", str(workspace.root))
        patch.setenv("NIGHTBID_CACHE", str(folder / "cache"))
        patch.setenv("NIGHTBID_TRACKING_PAGES", "http://mlflow.example:5000/")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "ann:viewer,eve:user")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        from airflow.api_fastapi.app import create_app, purge_cached_app
        from nightbid_airflow.views.app import pages

        pages.cache_clear()
        pages()  # Build the pages here, while the settings are those of this server.
        purge_cached_app()
        running = uvicorn.Server(uvicorn.Config(create_app("core"), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.05)
            yield f"{address}/nightbid/"
        finally:
            running.should_exit = True
            thread.join()
            pages.cache_clear()
            purge_cached_app()


@pytest.fixture(scope="package")
def token(server: str) -> Callable[[str], str]:
    """Log a user in and return the token."""

    def token(user: str) -> str:
        body = {"username": user, "password": "secret"}
        address = server.replace("/nightbid/", "/auth/token")
        answer = httpx.post(address, json=body, **CLIENT)
        return str(answer.json()["access_token"])

    return token


@pytest.fixture(scope="package")
def ann(server: str, token: Callable[[str], str]) -> Iterator[httpx.Client]:
    """Return the client of a logged-in user who may only read."""
    with httpx.Client(base_url=server, **CLIENT) as client:
        client.cookies.set("_token", token("ann"))
        yield client


@pytest.fixture(scope="package")
def eve(server: str, token: Callable[[str], str]) -> Iterator[httpx.Client]:
    """Return the client of a logged-in user who may edit DAGs."""
    with httpx.Client(base_url=server, **CLIENT) as client:
        client.cookies.set("_token", token("eve"))
        yield client
