"""A person fills in a form, approves a night and views it, in Airflow's pages and ours.

The promotion starts the scoring DAG.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pyarrow.dataset as ds
import pytest
from nightbid.config.settings import Settings
from nightbid.night.champion import ChampionPointer
from nightbid.storage.workspace import Workspace

DAG, SCORE = "nightly_tiny", "score_tiny"
PATIENCE = 400.0


def until(airflow: Any, found: Callable[[], Any]) -> Any:
    """Wait until a condition is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        airflow.check()
        if value := found():
            return value
        # Each check takes CPU time from the night.
        time.sleep(1)
    return found()


def opened(page: Any, airflow: Any, dag: str) -> None:
    """Open the form of a DAG that Airflow knows."""
    assert until(airflow, lambda: airflow.client.has_dag(dag))
    page.goto(f"{airflow.client.address}/dags/{dag}")
    page.get_by_role("button", name="Trigger").first.click()
    page.locator("[name=element_date]").wait_for()


def runs(airflow: Any, dag: str) -> list[dict[str, Any]]:
    return list((airflow.client._call("GET", f"dags/{dag}/dagRuns") or {})["dag_runs"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_form_explains_an_override_with_an_unknown_key(airflow: Any, page: Any) -> None:
    opened(page, airflow, "nightly_tiny")
    # The form needs no input.
    assert "*" not in page.get_by_text("Other settings", exact=False).first.inner_text()
    page.fill("[name=element_overrides]", "trian.learning_rate=0.002")
    page.get_by_role("button", name="Trigger").last.click()
    page.get_by_text("trian").nth(1).wait_for()
    text = page.locator("body").inner_text()
    assert "did you mean 'train'" in text
    assert "schema" not in text.lower()
    assert runs(airflow, "nightly_tiny") == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_night_from_the_form_is_approved_promoted_scored_and_shown(
    airflow: Any, settings: Settings, elsewhere: str, page: Any
) -> None:
    from nightbid_airflow.embedded.client import ENDED

    client, address = airflow.client, airflow.client.address
    assert until(airflow, lambda: client.has_dag(DAG) and client.has_dag(SCORE))
    client.unpause(SCORE)

    # Before the first night, the pages explain how to begin.
    page.goto(address)
    page.get_by_role("link", name="Nightbid").click()
    frame = page.frame_locator("iframe")
    frame.get_by_text("No night has run yet").wait_for()

    # The form has the fields that a person may set.
    page.goto(f"{address}/dags/{DAG}")
    page.get_by_role("button", name="Trigger").first.click()
    page.fill("input[name=element_date]", "2026-01-08")
    page.fill("input[name=element_train_days]", "2")
    page.fill("input[name=element_architecture]", "deepfm")
    page.fill("input[name=element_budget_usd]", "2.5")
    page.fill("[name=element_overrides]", "train.learning_rate=0.002")
    page.get_by_role("button", name="Advanced Options").click()
    page.fill("input[name=dagRunId]", "by:hand+1")
    page.get_by_role("button", name="Trigger").last.click()
    page.wait_for_url(f"**/dags/{DAG}/runs/**")
    # Airflow's page of an active run polls and redraws all the time.
    page.goto("about:blank")

    def approval() -> bool:
        if client.run_state(DAG, "by:hand+1") is None:
            return False
        states = {task.name: task.state for task in client.tasks(DAG, "by:hand+1")}
        assert "failed" not in states.values(), states
        return states.get("approve") in ("deferred", "awaiting_input", "success")

    assert until(airflow, approval)
    page.goto(f"{address}/dags/{DAG}/runs/by%3Ahand%2B1/tasks/approve/required_actions")
    with page.expect_response(lambda answer: answer.request.method == "PATCH"):
        page.get_by_role("button", name="Approve").click()
    page.goto("about:blank")
    ended = until(
        airflow, lambda: client.run_state(DAG, "by:hand+1") in ("success", "failed") or None
    )
    assert ended
    assert client.run_state(DAG, "by:hand+1") == "success"

    # Airflow's page of the run shows its night, its outcome and a tab with our page of the run.
    page.goto(f"{address}/dags/{DAG}/runs/by%3Ahand%2B1")
    (noted,) = (client._call("GET", f"dags/{DAG}/dagRuns") or {})["dag_runs"]
    assert noted["note"].startswith("🟢 Night of 2026-01-08, with train.learning_rate=0.002")
    assert "promoted as champion #1" in noted["note"]
    page.get_by_role("tab", name="Nightbid").or_(
        page.locator("a[href$='/plugin/nightbid-dag_run']")
    ).first.click()
    frame.get_by_text("by-hand-1").first.wait_for()

    # Our pages show the night inside Airflow.
    page.get_by_role("link", name="Nightbid").first.click()
    frame.get_by_role("link", name="by-hand-1").click()
    frame.get_by_role("heading", name="Calibration").wait_for()
    # Scripts that the content security policy allows draw the charts.
    frame.get_by_role("img", name="Calibration curve").wait_for()
    text = frame.locator("main").inner_text()
    for figure in ("deepfm", "of a budget of 2.5 USD", "train.learning_rate=0.002",
                   "window.train_days=2", "as champion #1"):  # fmt: skip
        assert figure in text, figure
    assert page.url.endswith("/plugin/nightbid/nightbid/runs/tiny/by-hand-1")
    # The frame may not show another site, which opens in a new tab.
    with page.context.expect_page() as opened:
        frame.get_by_role("link", name="In MLflow").click()
    assert opened.value.url.startswith(elsewhere)
    opened.value.get_by_role("heading", name="experiments").wait_for()
    opened.value.close()
    for name, heading in (("Costs", "Costs"), ("Champion of tiny", "Champion of tiny")):
        frame.get_by_role("link", name=name, exact=True).click()
        frame.get_by_role("heading", name=heading, exact=True).wait_for()
    frame.get_by_text("nightbid rollback tiny").first.wait_for()

    # A log link leaves the frame: Airflow shows its own page.
    frame.get_by_role("link", name="by-hand-1").first.click()
    frame.get_by_role("link", name="log", exact=True).first.click()
    page.wait_for_url("**/dags/nightly_tiny/runs/**/tasks/sample*")
    page.locator("iframe").wait_for(state="detached")
    page.goto("about:blank")

    # The promotion has started the scoring DAG.
    assert until(airflow, lambda: any(run["state"] in ENDED for run in runs(airflow, SCORE)))
    (scored,) = runs(airflow, SCORE)
    events = (client._call("GET", "assets/events") or {})["asset_events"]
    (event,) = (event for event in events if "champion" in event["uri"])
    workspace = Workspace(settings.workspace)
    champion = ChampionPointer(workspace, "tiny").current()
    assert champion is not None
    assert (scored["state"], scored["run_type"]) == ("success", "asset_triggered")
    assert event["name"] == "champion_tiny"
    assert event["extra"] == {
        "pipeline": "tiny",
        "number": champion.number,
        "bundle": champion.bundle_digest,
        "run_id": "by-hand-1",
        "night": "2026-01-08",
    }
    (manifest,) = workspace.at("stages/tiny/score").glob("*/manifest.json")
    rows = json.loads(manifest.read_text())["rows"]["written"]
    files = sorted((manifest.parent / "scores").rglob("*.parquet"))
    assert ds.dataset(files).count_rows() == rows > 0


@pytest.mark.parametrize("path", ["", "nights/tiny", "costs", "champion/tiny", "runs/tiny/x"])
def test_pages_fit_1280_pixels_and_follow_the_color_scheme(
    airflow: Any, new_tab: Any, path: str
) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        new_tab.emulate_media(color_scheme=scheme)
        # Airflow's first page may still send requests.
        new_tab.goto("about:blank")
        addresses: list[str] = []
        new_tab.on("request", lambda request, addresses=addresses: addresses.append(request.url))
        new_tab.goto(f"{airflow.client.address}/nightbid/{path}")
        assert new_tab.evaluate("document.documentElement.scrollWidth") <= 1280
        assert [url for url in addresses if not url.startswith(airflow.client.address)] == []
        grounds.append(new_tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]
    # The first tab stop skips the navigation.
    new_tab.keyboard.press("Tab")
    assert new_tab.evaluate("document.activeElement.textContent") == "Skip to content"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sweep_form_accepts_an_empty_name(airflow: Any, page: Any) -> None:
    opened(page, airflow, "sweep")
    page.fill("[name=element_set]", "train.learning_rate=0.001,0.01")
    page.get_by_role("button", name="Trigger").last.click()
    page.wait_for_url("**/dags/sweep/runs/**")
    (run,) = runs(airflow, "sweep")
    assert not run["conf"].get("name")
    assert run["conf"]["set"] == ["train.learning_rate=0.001,0.01"]
    # Airflow starts the sweep at once; it is not needed.
    address = f"dags/sweep/dagRuns/{run['dag_run_id']}"
    airflow.client._call("PATCH", address, {"state": "failed"})
