"""A client for the calls of Airflow's REST API that a night needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
ENDED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})


@dataclass(frozen=True)
class Task:
    """The state of one task of a DAG run."""

    name: str
    state: str
    attempt: int
    seconds: float | None


class AirflowClient:
    """Client of one Airflow.

    Args:
        address: URL of the API server.
        user: Name of a user of the simple auth manager.
        password: Password of that user.
    """

    def __init__(self, address: str, user: str, password: str) -> None:
        self.address = address
        self._login = {"username": user, "password": password}
        self._http = httpx.Client(base_url=address, timeout=60, trust_env=False)
        self._warm = False

    def __enter__(self) -> AirflowClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def is_healthy(self) -> bool:
        """Whether every component has sent a recent heartbeat."""
        try:
            answer = self._http.get("/api/v2/monitor/health")
            if answer.status_code != httpx.codes.OK:
                return False
            if not self._warm:
                # The first call of the execution API takes seconds. Do it now, while other
                # components start, so that the first task does not have to wait.
                self._http.get("/execution/health")
                self._warm = True
        except httpx.TransportError:
            return False
        health = answer.json()
        return all((health.get(name) or {}).get("status") == "healthy" for name in COMPONENTS)

    def has_dag(self, dag: str) -> bool:
        """Whether the DAG has been parsed."""
        return self._call("GET", f"dags/{dag}", missing_is_none=True) is not None

    def import_errors(self) -> list[str]:
        """List the DAG files that could not be parsed, with their errors."""
        answer = self._call("GET", "importErrors") or {}
        return [error["stack_trace"].strip() for error in answer["import_errors"]]

    def unpause(self, dag: str) -> None:
        """Unpause a DAG, so that the scheduler runs it."""
        self._call("PATCH", f"dags/{dag}", {"is_paused": False})

    def run_state(self, dag: str, run: str) -> str | None:
        """Get the state of a DAG run; None if there is no such run."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}", missing_is_none=True)
        return str(answer["state"]) if answer else None

    def run_conf(self, dag: str, run: str) -> Mapping[str, Any]:
        """Get the conf that a DAG run was triggered with."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}") or {}
        return dict(answer.get("conf") or {})

    def trigger(self, dag: str, run: str, conf: Mapping[str, Any]) -> None:
        """Trigger a DAG run."""
        body = {"dag_run_id": run, "logical_date": None, "conf": dict(conf)}
        self._call("POST", f"dags/{dag}/dagRuns", body)

    def run_again(self, dag: str, run: str) -> None:
        """Clear all tasks of a finished DAG run; its conf stays."""
        body = {"dry_run": False, "only_failed": False, "run_on_latest_version": True}
        self._call("POST", f"dags/{dag}/dagRuns/{run}/clear", body)

    def tasks(self, dag: str, run: str) -> list[Task]:
        """List the tasks of a DAG run with their states."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}/taskInstances") or {}
        return [
            Task(
                name=instance["task_id"],
                state=instance["state"] or "none",
                attempt=instance["try_number"],
                seconds=instance["duration"],
            )
            for instance in answer["task_instances"]
        ]

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        missing_is_none: bool = False,
    ) -> dict[str, Any] | None:
        answer = self._http.request(method, f"/api/v2/{path}", json=body)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            token = self._http.post("/auth/token", json=self._login).raise_for_status().json()
            self._http.headers["Authorization"] = f"Bearer {token['access_token']}"
            answer = self._http.request(method, f"/api/v2/{path}", json=body)
        if missing_is_none and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content
