"""A fake custom-job service on a loopback socket that fails on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import grpc
import pytest
from emulator.rpc import Fault, handlers, listening
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import empty_pb2

SERVICE = "google.cloud.aiplatform.v1.JobService"
NAME = "projects/project/locations/us-central1/customJobs/77"


@dataclass(frozen=True)
class Moment:
    """The state of the job that the service reports at one time."""

    state: str
    start: datetime | None = None
    end: datetime | None = None


@dataclass
class TrainingService:
    """Plays one job. It gives its responses in order and repeats the last one."""

    endpoint: str = ""
    spec: vertex.CustomJobSpec = field(default_factory=vertex.CustomJobSpec)
    answers: list[Moment | Fault] = field(default_factory=list)
    cancel_faults: list[Fault] = field(default_factory=list)
    cancelled_after: int | None = None
    """Number of responses before the job was canceled."""
    calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, request: vertex.GetCustomJobRequest, context: Any) -> vertex.CustomJob:
        with self._lock:
            self.calls += 1
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Fault):
            answer.play(context)
            answer = Moment("RUNNING")
        if request.name != NAME:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.name}")
        job = vertex.CustomJob(name=request.name, job_spec=self.spec)
        job.state = vertex.JobState[f"JOB_STATE_{answer.state}"]
        if answer.start:
            job.start_time = answer.start
        if answer.end:
            job.end_time = answer.end
        return job

    def cancel(self, request: vertex.CancelCustomJobRequest, context: Any) -> empty_pb2.Empty:
        with self._lock:
            fault = self.cancel_faults.pop(0) if self.cancel_faults else None
        if fault:
            fault.play(context)
        self.cancelled_after = self.calls
        return empty_pb2.Empty()


@pytest.fixture
def training_service() -> Iterator[TrainingService]:
    """Serve the fake on a free port of the loopback interface."""
    service = TrainingService()
    methods = {
        "GetCustomJob": (vertex.GetCustomJobRequest, vertex.CustomJob, service.get),
        "CancelCustomJob": (vertex.CancelCustomJobRequest, None, service.cancel),
    }
    with listening(handlers(SERVICE, methods)) as service.endpoint:
        yield service


@pytest.fixture
def moment() -> type[Moment]:
    """Return the class of the states that the service reports."""
    return Moment


@pytest.fixture
def fault() -> type[Fault]:
    """Return the class of the error responses."""
    return Fault
