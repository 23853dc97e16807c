"""A managed training emulator over gRPC: custom jobs (`JobClient`) and logs (`LoggingServiceV2`).

A job runs in processes of this machine (`machines.py`). Faults occur on demand: refused calls,
lost responses, a slow start, workers that die, preempted machines.
`python training.py PORT` starts it from the shell.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.api import monitored_resource_pb2
from google.cloud import aiplatform_v1 as vertex
from google.cloud.logging_v2 import types as logs
from google.protobuf import empty_pb2
from google.rpc import code_pb2, status_pb2

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).parents[1]))
from emulator.machines import Machines
from emulator.rpc import handlers

JOBS = "google.cloud.aiplatform.v1.JobService"
LOGS = "google.logging.v2.LoggingServiceV2"
State = vertex.JobState
ENDED = {State.JOB_STATE_SUCCEEDED, State.JOB_STATE_FAILED, State.JOB_STATE_CANCELLED}
PAGE = 50


@dataclass
class Refusal:
    """Calls of a method that the service answers with an error."""

    method: str
    code: grpc.StatusCode
    text: str
    left: int
    after: bool
    """Whether the call succeeds and only its response is lost."""


@dataclass
class Loss:
    """Machines that are preempted once the log of a job contains this text."""

    text: str
    left: int
    replica: int | None
    """Rank of the machine; None means all machines."""


@dataclass
class Line:
    number: int
    at: datetime
    replica: str
    text: str
    bad: bool = False


@dataclass
class Running:
    """One job and its state."""

    job: vertex.CustomJob
    lines: list[Line] = field(default_factory=list)
    starts: list[Machines] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def processes(self) -> list[subprocess.Popen[str]]:
        """The machines of the last start."""
        return self.starts[-1].processes if self.starts else []

    @property
    def number(self) -> str:
        return self.job.name.rpartition("/")[2]

    @property
    def log(self) -> str:
        return "\n".join(line.text for line in self.lines)


class Training:
    """The emulated managed training service.

    Args:
        port: Port to listen on; 0 picks a free one.
        host: Address to listen on.
        queued_seconds: Seconds that a job waits before its machines start.
    """

    def __init__(
        self, port: int = 0, host: str = "127.0.0.1", *, queued_seconds: float = 0.0
    ) -> None:
        self.jobs: dict[str, Running] = {}
        self.calls: list[str] = []
        """Names of the called methods, in order."""
        self.queued_seconds = queued_seconds
        self.late_end_seconds = 0.0
        """Seconds for which a job that has ended reports no end time."""
        self.clock_behind_seconds = 0.0
        """Seconds by which the clock of the service is behind this machine's."""
        self.restarts = 3
        """Number of times that the service restarts a job after it loses machines."""
        self._refusals: list[Refusal] = []
        self._losses: list[Loss] = []
        self._forgotten: list[str] = []
        self._numbers = itertools.count(7_100_000_000_000_000_001)
        self._lines = itertools.count(1)
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="training-")
        self._threads: list[threading.Thread] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        self._server.add_generic_rpc_handlers(self._services())
        self.endpoint = f"http://{host}:{self._server.add_insecure_port(f'{host}:{port}')}"

    def start(self) -> Training:
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop the service and every process that it started."""
        for job in list(self.jobs.values()):
            job.cancelled.set()
        for thread in self._threads:
            thread.join(20)
        self._server.stop(None).wait()
        self._folder.cleanup()

    def fail(
        self,
        method: str,
        code: grpc.StatusCode,
        text: str = "as told",
        times: int = 1,
        *,
        after: bool = False,
    ) -> None:
        """Refuse the next calls of a method, or (`after`) lose their responses."""
        self._refusals.append(Refusal(method, code, text, times, after))

    def lose(self, text: str, times: int = 1, *, replica: int | None = 0) -> None:
        """Preempt a machine (None: all) as soon as the log of a job contains `text`."""
        self._losses.append(Loss(text, times, replica))

    def forget(self, text: str) -> None:
        """Forget a job and end its machines once its log contains `text`."""
        self._forgotten.append(text)

    # Methods that a client calls.

    def create(self, request: vertex.CreateCustomJobRequest, context: Any) -> vertex.CustomJob:
        spec = request.custom_job.job_spec
        pools = list(spec.worker_pool_specs)
        if not request.custom_job.display_name or not pools or pools[0].replica_count != 1:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "display_name and a first worker pool of one replica are required",
            )
        for pool in pools:
            if not pool.container_spec.image_uri or not pool.machine_spec.machine_type:
                context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "every pool needs image and machine type"
                )
        for name, value in request.custom_job.labels.items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name) or len(value) > 63:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"invalid label {name}={value}")
        job = vertex.CustomJob(request.custom_job)
        job.name = f"{request.parent}/customJobs/{next(self._numbers)}"
        job.state = State.JOB_STATE_QUEUED
        job.create_time = job.update_time = self._clock()
        running = Running(job)
        self.jobs[job.name] = running
        thread = threading.Thread(target=self._run, args=(running,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return job

    def get(self, request: vertex.GetCustomJobRequest, context: Any) -> vertex.CustomJob:
        return self._find(request.name, context).job

    def list(
        self, request: vertex.ListCustomJobsRequest, context: Any
    ) -> vertex.ListCustomJobsResponse:
        wanted = dict(re.findall(r'([\w.-]+)\s*=\s*"([^"]*)"', request.filter))
        unknown = [n for n in wanted if n != "display_name" and not n.startswith("labels.")]
        if unknown:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"cannot filter by {unknown[0]}")
        jobs = [
            running.job
            for running in reversed(self.jobs.values())
            if running.job.name.startswith(request.parent + "/")
            and all(self._has(running.job, name, value) for name, value in wanted.items())
        ]
        start, size = int(request.page_token or 0), request.page_size or PAGE
        more = str(start + size) if start + size < len(jobs) else ""
        return vertex.ListCustomJobsResponse(
            custom_jobs=jobs[start : start + size], next_page_token=more
        )

    def cancel(self, request: vertex.CancelCustomJobRequest, context: Any) -> empty_pb2.Empty:
        running = self._find(request.name, context)
        if running.job.state not in ENDED:
            self._now(running, State.JOB_STATE_CANCELLING)
            running.cancelled.set()
        return empty_pb2.Empty()

    def entries(
        self, request: logs.ListLogEntriesRequest, context: Any
    ) -> logs.ListLogEntriesResponse:
        number = re.search(r'job_id\s*=\s*"(\d+)"', request.filter)
        since = re.search(r'timestamp\s*>=\s*"([^"]+)"', request.filter)
        if not number or 'resource.type="ml_job"' not in request.filter:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"filter {request.filter!r}")
        begin = datetime.fromisoformat(since[1]) if since else datetime.min.replace(tzinfo=UTC)
        lines = [
            line
            for running in self.jobs.values()
            if running.number == number[1]
            for line in running.lines
            if line.at >= begin
        ]
        start, size = int(request.page_token or 0), request.page_size or PAGE
        return logs.ListLogEntriesResponse(
            entries=[self._entry(number[1], line) for line in lines[start : start + size]],
            next_page_token=str(start + size) if start + size < len(lines) else "",
        )

    @staticmethod
    def _entry(job: str, line: Line) -> logs.LogEntry:
        return logs.LogEntry(
            log_name=f"projects/p/logs/{line.replica}",
            insert_id=f"{line.number:012d}",
            timestamp=line.at,
            severity="ERROR" if line.bad else "INFO",
            resource=monitored_resource_pb2.MonitoredResource(
                type="ml_job", labels={"job_id": job, "task_name": line.replica}
            ),
            json_payload={"message": line.text + "\n"},
        )

    @staticmethod
    def _has(job: vertex.CustomJob, name: str, value: str) -> bool:
        if name == "display_name":
            return bool(job.display_name == value)
        return bool(job.labels.get(name.removeprefix("labels.")) == value)

    def _find(self, name: str, context: Any) -> Running:
        if name not in self.jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} is not found")
        return self.jobs[name]

    # The life of a job.

    def _clock(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=self.clock_behind_seconds)

    def _now(self, running: Running, state: State, code: int = 0, text: str = "") -> None:
        job = running.job
        with self._lock:
            if job.state in ENDED:
                return
            job.state, job.update_time = state, self._clock()
            if state == State.JOB_STATE_RUNNING and not job.start_time:
                job.start_time = job.update_time
            if state in ENDED:
                end = job.update_time
                if self.late_end_seconds:
                    later = threading.Timer(self.late_end_seconds, setattr, (job, "end_time", end))
                    later.daemon = True
                    later.start()
                else:
                    job.end_time = end
            if text:
                job.error = status_pb2.Status(code=code, message=text)

    def _run(self, running: Running) -> None:
        try:
            if running.cancelled.wait(self.queued_seconds):
                return self._now(running, State.JOB_STATE_CANCELLED)
            self._now(running, State.JOB_STATE_PENDING)
            while True:
                machines = self._start(running)
                codes = machines.run(running.cancelled)
                if running.cancelled.is_set():
                    return self._now(
                        running, State.JOB_STATE_CANCELLED, code_pb2.CANCELLED, "CANCELED"
                    )
                if not any(codes):
                    return self._now(running, State.JOB_STATE_SUCCEEDED)
                if not machines.taken:
                    at = next(at for at, code in enumerate(codes) if code)
                    return self._now(
                        running,
                        State.JOB_STATE_FAILED,
                        code_pb2.INVALID_ARGUMENT,
                        f"The replica {_name(at)} exited with a non-zero status of {codes[at]}.",
                    )
                if len(running.starts) > self.restarts:
                    return self._now(
                        running,
                        State.JOB_STATE_FAILED,
                        code_pb2.RESOURCE_EXHAUSTED,
                        "Resources are insufficient in region: STOCKOUT",
                    )
                self._say(running, "service", "machines were lost: the job starts again", bad=True)
                self._now(running, State.JOB_STATE_PENDING)
        except Exception as error:
            self._now(running, State.JOB_STATE_FAILED, code_pb2.INTERNAL, repr(error))
            raise

    def _start(self, running: Running) -> Machines:
        home = Path(self._folder.name) / running.number / str(len(running.starts))

        def heard(rank: int, text: str, bad: bool) -> None:
            self._say(running, _name(rank), text, bad=bad)
            if (
                forgotten := next((pattern for pattern in self._forgotten if pattern in text), "")
            ) != "":
                self._forgotten.remove(forgotten)
                running.cancelled.set()
                self.jobs.pop(running.job.name, None)
            loss = next((loss for loss in self._losses if loss.left and loss.text in text), None)
            if loss is not None:
                loss.left -= 1
                machines.take(loss.replica)

        pools, project = running.job.job_spec.worker_pool_specs, running.job.name.split("/")[1]
        machines = Machines(pools, project, home, heard)
        running.starts.append(machines)
        self._now(running, State.JOB_STATE_RUNNING)
        return machines

    def _say(self, running: Running, replica: str, text: str, *, bad: bool = False) -> None:
        with self._lock:
            line = Line(next(self._lines), self._clock(), replica, text, bad)
            running.lines.append(line)

    # The gRPC server.

    def _served(self, name: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def call(request: Any, context: Any) -> Any:
            self.calls.append(name)
            fault = next((e for e in self._refusals if e.left and e.method == name), None)
            if fault:
                fault.left -= 1
                if fault.after:
                    function(request, context)
                context.abort(fault.code, fault.text)
            return function(request, context)

        return call

    def _services(self) -> list[Any]:
        jobs = {
            "CreateCustomJob": (vertex.CreateCustomJobRequest, vertex.CustomJob, self.create),
            "GetCustomJob": (vertex.GetCustomJobRequest, vertex.CustomJob, self.get),
            "ListCustomJobs": (
                vertex.ListCustomJobsRequest, vertex.ListCustomJobsResponse, self.list,
            ),
            "CancelCustomJob": (vertex.CancelCustomJobRequest, None, self.cancel),
        }  # fmt: skip
        lines = {
            "ListLogEntries": (
                logs.ListLogEntriesRequest, logs.ListLogEntriesResponse, self.entries,
            ),
        }  # fmt: skip
        return [
            handlers(
                service,
                {
                    name: (request, answer, self._served(name, function))
                    for name, (request, answer, function) in methods.items()
                },
            )
            for service, methods in ((JOBS, jobs), (LOGS, lines))
        ]


def _name(rank: int) -> str:
    return "workerpool0-0" if rank == 0 else f"workerpool1-{rank - 1}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--host", default="127.0.0.1")
    asked = parser.parse_args()
    served = Training(asked.port, asked.host).start()
    print(served.endpoint, flush=True)  # noqa: T201
    threading.Event().wait()
