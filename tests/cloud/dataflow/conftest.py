"""A fake Dataflow service on a loopback socket that fails on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from emulator.rpc import Fault, handlers, listening
from google.cloud import dataflow_v1beta3 as dataflow

JOBS = "google.dataflow.v1beta3.JobsV1Beta3"
METRICS = "google.dataflow.v1beta3.MetricsV1Beta3"


Values = Sequence[tuple[str, float]]
"""Metric names and values; a name may come twice. `~name` marks a tentative value."""


@dataclass
class DataflowService:
    """Plays one job. It gives its responses in order and repeats the last one."""

    endpoint: str = ""
    states: list[str | Fault] = field(default_factory=lambda: ["RUNNING"])
    metrics: list[Values | Fault] = field(default_factory=lambda: [()])
    cancel_faults: list[Fault] = field(default_factory=list)
    cancelled_after: int | None = None
    """Number of metric responses before the job was canceled."""
    metric_calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get_job(self, request: dataflow.GetJobRequest, context: Any) -> dataflow.Job:
        with self._lock:
            state = self._next(self.states)
        if isinstance(state, Fault):
            state.play(context)
        if self.cancelled_after is not None:
            state = "CANCELLED"
        return dataflow.Job(
            id=request.job_id,
            current_state=dataflow.JobState[f"JOB_STATE_{state}"],
            create_time=datetime(2026, 11, 23, 2, tzinfo=UTC),
        )

    def update_job(self, request: dataflow.UpdateJobRequest, context: Any) -> dataflow.Job:
        with self._lock:
            fault = self.cancel_faults.pop(0) if self.cancel_faults else None
        if fault:
            fault.play(context)
        if request.job.requested_state == dataflow.JobState.JOB_STATE_CANCELLED:
            self.cancelled_after = self.metric_calls
        return dataflow.Job(id=request.job_id)

    def get_job_metrics(
        self, request: dataflow.GetJobMetricsRequest, context: Any
    ) -> dataflow.JobMetrics:
        with self._lock:
            self.metric_calls += 1
            values = self._next(self.metrics)
        if isinstance(values, Fault):
            values.play(context)
            values = ()
        return dataflow.JobMetrics(metrics=[_update(name, value) for name, value in values])

    def _next(self, answers: list[Any]) -> Any:
        return answers.pop(0) if len(answers) > 1 else answers[0]


def _update(name: str, value: float) -> dataflow.MetricUpdate:
    tentative = name.startswith("~")
    return dataflow.MetricUpdate(
        name=dataflow.MetricStructuredName(
            origin="dataflow/v1b3",
            name=name.lstrip("~"),
            context={"tentative": "true"} if tentative else {},
        ),
        scalar=value,
    )


@pytest.fixture
def dataflow_service() -> Iterator[DataflowService]:
    """Serve the fake on a free port of the loopback interface."""
    service = DataflowService()
    jobs = {
        "GetJob": (dataflow.GetJobRequest, dataflow.Job, service.get_job),
        "UpdateJob": (dataflow.UpdateJobRequest, dataflow.Job, service.update_job),
    }
    metrics = {
        "GetJobMetrics": (
            dataflow.GetJobMetricsRequest,
            dataflow.JobMetrics,
            service.get_job_metrics,
        )
    }
    with listening(handlers(JOBS, jobs), handlers(METRICS, metrics)) as service.endpoint:
        yield service


@pytest.fixture
def fault() -> type[Fault]:
    """Return the class of the error responses."""
    return Fault
