"""The embedded Airflow, as `make ui` starts it, and a logged-in Chromium, for all of this folder.

The first file meets an empty workspace; the others add pipelines and nights of their own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflows import embedded
from browsers import browser
from emulator.installation import until
from nightbid.config.settings import Settings
from small_pipeline import PIPELINE, WARNINGS_ONLY

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "plugins"))

TINY = {
    **PIPELINE,
    "pipeline": "tiny",
    "window": {"train_days": 3},
    "features": {"ad_id": {"min_count": 5}, "device_type": "vocabulary"},
    "evaluate": {"slices": ["device_type"], "bootstrap": 50},
    "approval": True,
    "gates": WARNINGS_ONLY,
}
"""A pipeline with a night that takes seconds and a person who approves the promotion."""


@pytest.fixture(scope="package")
def shared_chromium() -> Iterator[Any]:
    """Start a Chromium for this folder; later folders need its thread for loops of their own."""
    with browser() as started:
        yield started


@pytest.fixture(scope="package")
def elsewhere() -> Iterator[str]:
    """Address of another site in place of MLflow."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("X-Frame-Options", "SAMEORIGIN")
            self.end_headers()
            self.wfile.write(b"<h1>experiments</h1>")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="package")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an installation with one pipeline and a new workspace."""
    folder = tmp_path_factory.mktemp("ui")
    pipelines = folder / "pipelines"
    pipelines.mkdir()
    (pipelines / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return Settings(
        workspace=str(folder / "workspace"),
        pipelines=pipelines,
        cache=folder / "cache",
        tracking="",
    )


@pytest.fixture(scope="package")
def airflow(shared_chromium: Any, elsewhere: str, settings: Settings) -> Iterator[Any]:
    """Start all components, with schedules."""
    from nightbid_airflow.embedded.home import Home

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTBID_TRACKING", "")
        patch.setenv("NIGHTBID_TRACKING_PAGES", elsewhere)
        # Each poll of each waiting task takes CPU time from the others.
        patch.setenv("NIGHTBID_POLL_SECONDS", "1")
        with embedded(Home.beside(settings), settings, schedules=True) as running:
            yield running


@pytest.fixture(scope="package")
def parse(airflow: Any) -> Callable[[str], None]:
    """Return a function that lets Airflow parse added pipelines until it knows a DAG."""
    client = airflow.client

    def parse_until(dag: str) -> None:
        known = client._call("GET", "dags/nightly_tiny")
        client._http.put(f"/api/v2/parseDagFile/{known['file_token']}").raise_for_status()
        until(lambda: client.has_dag(dag), 300)

    return parse_until


@pytest.fixture(scope="package")
def browsing(shared_chromium: Any, airflow: Any) -> Iterator[Any]:
    """Open a browser's window 1280 px wide and log a user in by the form."""
    context = shared_chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(90_000)
    opened = context.new_page()
    opened.goto(airflow.client.address)
    opened.fill("input[name=username]", "admin")
    opened.fill("input[name=password]", airflow.home.password())
    opened.keyboard.press("Enter")
    opened.wait_for_url(f"{airflow.client.address}/")
    yield context
    context.close()


@pytest.fixture(scope="package")
def tab(browsing: Any) -> Any:
    """Return the tab of the login. A new tab would compile Airflow's scripts again."""
    return browsing.pages[0]


@pytest.fixture
def page(tab: Any) -> Iterator[Any]:
    """Return the tab of the logged-in browser, and leave its page, which may poll."""
    yield tab
    tab.goto("about:blank")


@pytest.fixture
def new_tab(browsing: Any) -> Iterator[Any]:
    """Open another tab of the logged-in browser."""
    opened = browsing.new_page()
    yield opened
    opened.close()
