"""The few calls of Airflow's REST interface that a night needs."""

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


class Client:
    """Speaks to one Airflow.

    Args:
        address: of its API server.
        user: of the simple auth manager.
        password: of that user.
    """

    def __init__(self, address: str, user: str, password: str) -> None:
        self.address = address
        self._login = {"username": user, "password": password}
        self._http = httpx.Client(base_url=address, timeout=60, trust_env=False)
        self._warm = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def is_healthy(self) -> bool:
        """Whether every component has reported lately."""
        try:
            answer = self._http.get("/api/v2/monitor/health")
            if answer.status_code != httpx.codes.OK:
                return False
            if not self._warm:
                # The interface that tasks report to is built at its first call, which takes
                # seconds: now, while other components start, and not while the first task waits.
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
        """What could not be parsed, and why."""
        answer = self._call("GET", "importErrors") or {}
        return [each["stack_trace"].strip() for each in answer["import_errors"]]

    def unpause(self, dag: str) -> None:
        """Let the scheduler run it."""
        self._call("PATCH", f"dags/{dag}", {"is_paused": False})

    def run_state(self, dag: str, run: str) -> str | None:
        """State of a DAG run; None if there is none of this name."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}", missing_is_none=True)
        return str(answer["state"]) if answer else None

    def run_conf(self, dag: str, run: str) -> Mapping[str, Any]:
        """What a DAG run was asked for."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}") or {}
        return dict(answer.get("conf") or {})

    def trigger(self, dag: str, run: str, conf: Mapping[str, Any]) -> None:
        """Ask for a DAG run."""
        body = {"dag_run_id": run, "logical_date": None, "conf": dict(conf)}
        self._call("POST", f"dags/{dag}/dagRuns", body)

    def run_again(self, dag: str, run: str) -> None:
        """Clear every task of a finished DAG run; its conf stays."""
        body = {"dry_run": False, "only_failed": False, "run_on_latest_version": True}
        self._call("POST", f"dags/{dag}/dagRuns/{run}/clear", body)

    def tasks(self, dag: str, run: str) -> list[Task]:
        """State of every task of a DAG run."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}/taskInstances") or {}
        return [
            Task(
                name=each["task_id"],
                state=each["state"] or "none",
                attempt=each["try_number"],
                seconds=each["duration"],
            )
            for each in answer["task_instances"]
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
        found: dict[str, Any] = answer.json()
        return found
