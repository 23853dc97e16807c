"""Airflow's trigger forms, filled in by a person: what may be left empty, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def opened(page: Any, airflow: Any, dag: str) -> None:
    """Open the form of a DAG that Airflow knows."""
    deadline = time.monotonic() + 300
    while not airflow.client.has_dag(dag):
        airflow.check()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    page.goto(f"{airflow.client.address}/dags/{dag}")
    page.get_by_role("button", name="Trigger").first.click()
    page.locator("[name=element_date]").wait_for()


def runs(airflow: Any, dag: str) -> list[dict[str, Any]]:
    return list((airflow.client._call("GET", f"dags/{dag}/dagRuns") or {})["dag_runs"])


def test_a_sweep_is_sent_with_an_empty_name(airflow: Any, page: Any) -> None:
    opened(page, airflow, "sweep")
    page.fill("[name=element_set]", "train.learning_rate=0.001,0.01")
    page.get_by_role("button", name="Trigger").last.click()
    page.wait_for_url("**/dags/sweep/runs/**")
    (run,) = runs(airflow, "sweep")
    assert not run["conf"].get("name")
    assert run["conf"]["set"] == ["train.learning_rate=0.001,0.01"]


def test_a_line_that_cannot_be_meant_is_refused_in_words(airflow: Any, page: Any) -> None:
    opened(page, airflow, "nightly_tiny")
    # Nothing has to be filled in.
    assert "*" not in page.get_by_text("Other settings", exact=False).first.inner_text()
    page.fill("[name=element_overrides]", "trian.learning_rate=0.002")
    page.get_by_role("button", name="Trigger").last.click()
    page.get_by_text("trian").nth(1).wait_for()
    said = page.locator("body").inner_text()
    assert "did you mean 'train'" in said
    assert "schema" not in said.lower()
    assert runs(airflow, "nightly_tiny") == []
