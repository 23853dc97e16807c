"""Airflow's settings that users get: the embedded Airflow and the Compose stack agree."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from nightbid.config.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
OF_THE_PLACE = {
    "AIRFLOW__API__BASE_URL",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__CORE__DAGS_FOLDER",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__CORE__PLUGINS_FOLDER",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER",
}
"""Addresses, folders and secrets, which every installation has its own of."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return what gives the variables of the embedded Airflow."""
    monkeypatch.syspath_prepend(ROOT / "plugins")
    from nightbid_airflow.embedded.home import Home

    for name in [name for name in os.environ if name.startswith("AIRFLOW__")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "workspace"))
    return lambda: Home(tmp_path / "airflow").environment(Settings(), 8080, schedules=False)


@pytest.fixture
def embedded(home) -> dict[str, str]:
    return {name: text for name, text in home().items() if name.startswith("AIRFLOW__")}


def of_service(name: str) -> dict[str, str]:
    """Return the variables of a Compose service, with the defaults of `${NAME:-default}`."""
    service = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"][name]
    variables = {}
    for file in service["env_file"]:
        lines = (ROOT / file).read_text().splitlines()
        variables |= dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    variables |= service["environment"]
    return {
        name: re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)
        for name, text in variables.items()
        if name.startswith("AIRFLOW__")
    }


@pytest.mark.parametrize("service", ["scheduler", "dag-processor", "triggerer", "api-server"])
def test_compose_and_embedded_airflow_differ_only_in_their_place(embedded, service):
    compose = of_service(service)
    only_embedded = {"AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"}  # a night by hand starts no other
    assert compose.keys() == embedded.keys() - only_embedded
    shared = compose.keys() - OF_THE_PLACE
    assert {name: compose[name] for name in shared} == {name: embedded[name] for name in shared}


def test_a_restarted_scheduler_looks_for_lost_tasks_within_seconds(embedded):
    """By default it looks after five minutes, in which a night stands still."""
    assert float(embedded["AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL"]) <= 30


def test_a_finished_task_frees_its_worker_within_a_second(embedded):
    """By default Airflow may notice the end after five seconds, in each of a night's 17 tasks."""
    assert float(embedded["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"]) <= 1


def test_variables_of_the_caller_take_precedence_over_shared_settings(home, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY", "1")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    environment = home()
    assert environment["AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY"] == "1"
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
