"""A Dataflow emulator with the REST API: it runs the staged pipeline that a runner submits.

Each job runs in a separate process (`emulator.dataflow_worker`) without the environment of its
submitter. States, messages and metrics grow as on the service; cancel and drain end the process.
`Served.fail` makes single requests fail, and `Plan` describes faults of jobs.

`python dataflow.py PORT --storage http://127.0.0.1:9023` starts it from the shell; a job's page
is `/jobs/ID`.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import json
import multiprocessing
import re
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.cloud import dataflow_v1beta3 as api
from google.protobuf import json_format

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).parents[1]))
from emulator.dataflow_worker import work
from emulator.serve import Answer, Refused, Served

CONTEXT = multiprocessing.get_context("forkserver")
# Each worker is forked from a process that has already imported the slow modules.
CONTEXT.set_forkserver_preload(["nightbid.featurize.job"])

ROUTE = re.compile(
    r"/v1b3/projects/(?P<project>[^/]+)(?:/locations/(?P<location>[^/]+))?/jobs"
    r"(?:/(?P<job>[^/:]+))?(?:/(?P<part>messages|metrics))?$"
)
PAGE = re.compile(r"/jobs/(?P<job>[^/]+)$")
ENDED = {"DONE", "FAILED", "CANCELLED", "DRAINED"}
IMPORTANCE = [
    api.JobMessageImportance[f"JOB_MESSAGE_{name}"]
    for name in ("DEBUG", "DETAILED", "BASIC", "WARNING", "ERROR")
]
"""Severities in rising order; their numbers in the API have another order."""
CPUS, MEMORY_MB, DISK_GB = 4, 16 * 1024, 50
"""Properties of the single worker that every job gets, whatever it requests."""


@dataclass
class Plan:
    """The faults of the next job."""

    slow_start: float = 0.0
    """Seconds that the job stays in the queue."""
    lose_worker: int = 0
    """Number of times that its worker dies halfway; the service starts another."""
    preempt: bool = False
    """Its machines are preempted halfway, and the job fails."""
    vanish: bool = False
    """The service forgets the job halfway."""
    hold: bool = False
    """The job never ends once it is halfway."""
    late_metrics: float = 0.0
    """Seconds from its end to its last metrics."""


@dataclass
class Running:
    """One job of the service."""

    proto: api.Job
    plan: Plan
    state: str = "PENDING"
    messages: list[api.JobMessage] = field(default_factory=list)
    process: Any = None
    began: float = 0.0
    ended: float = 0.0
    wanted: str = ""
    """CANCELLED or DRAINED, after a client requested it."""
    workers: int = 0
    """Processes that were started for the job."""

    @property
    def name(self) -> str:
        return str(self.proto.name)

    @property
    def seconds(self) -> float:
        """Billed seconds of its worker."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0

    def usage(self) -> dict[str, float]:
        """Return the service's metrics by name."""
        seconds = self.seconds
        if self.ended and time.monotonic() - self.ended < self.plan.late_metrics:
            seconds /= 2
        if not seconds:
            return {}
        return {
            "TotalVcpuTime": CPUS * seconds,
            "TotalMemoryUsage": MEMORY_MB * seconds,
            "TotalPdUsage": DISK_GB * seconds,
            "TotalShuffleDataProcessed": 0.001,
            "BillableShuffleDataProcessed": 0.00025,
        }


class Dataflow(Served):
    """The emulated Dataflow service."""

    def __init__(self, port: int = 0, *, storage: str, host: str = "127.0.0.1") -> None:
        # Beam speaks without TLS only to a host of this name.
        super().__init__(port, name="localhost", host=host)
        self.storage = storage
        self.jobs: dict[str, Running] = {}
        self.plans: list[Plan] = []
        """Plans of the next jobs; a job without a plan has no faults."""
        # It imports Beam in the background, so that the first job starts sooner.
        forkserver.ensure_running()

    def stop(self) -> None:
        for job in self.jobs.values():
            self._end(job)
        super().stop()

    def route(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if method == "POST" and parts.path == "/plans":
            self.plans.append(Plan(**json.loads(body)))
            return Answer.json({})
        if match := PAGE.match(parts.path):
            return self._page(self._job(match["job"]))
        match = ROUTE.match(parts.path)
        if match is None:
            raise Refused(501, f"this emulator does not know {method} {url}")
        if match["job"] is None:
            return self._create(match, body) if method == "POST" else self._list(query)
        job = self._job(match["job"])
        if match["part"] == "messages":
            return self._messages(job, query)
        if match["part"] == "metrics":
            return self._metrics(job)
        if method == "PUT":
            self._update(job, body)
        return _answer(job.proto)

    def _job(self, job_id: str) -> Running:
        if job_id not in self.jobs:
            raise Refused(404, f"(0): Information about job {job_id} could not be found.")
        return self.jobs[job_id]

    def _create(self, match: re.Match[str], body: bytes) -> Answer:
        wanted = api.Job()
        json_format.Parse(body, api.Job.pb(wanted), ignore_unknown_fields=True)
        for job in self.jobs.values():
            if job.name != wanted.name:
                continue
            if job.proto.client_request_id == wanted.client_request_id:
                raise Refused(409, f"job {wanted.name} was created by this request before")
            if job.state not in ENDED:
                # The service reports a job that exists by its name and the id of another request.
                return _answer(job.proto)
        now = datetime.now(UTC)
        wanted.id = f"{now:%Y-%m-%d_%H_%M_%S}-{uuid.uuid4().int % 10**19}"
        wanted.project_id, wanted.location = match["project"], match["location"] or ""
        wanted.create_time = wanted.start_time = now
        plan = self.plans.pop(0) if self.plans else Plan()
        job = Running(wanted, plan)
        self.jobs[wanted.id] = job
        self._become(job, "QUEUED" if plan.slow_start else "PENDING")
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return _answer(job.proto)

    def _list(self, query: dict[str, str]) -> Answer:
        wanted = query.get("filter", "1")
        jobs = [
            job.proto
            for job in self.jobs.values()
            if query.get("name") in (None, job.name)
            and (wanted not in ("2", "TERMINATED") or job.state in ENDED)
            and (wanted not in ("3", "ACTIVE") or job.state not in ENDED)
        ]
        return _answer(api.ListJobsResponse(jobs=jobs))

    def _update(self, job: Running, body: bytes) -> None:
        request = api.Job()
        json_format.Parse(body, api.Job.pb(request), ignore_unknown_fields=True)
        if job.state in ENDED:
            raise Refused(400, f"job {job.proto.id} has ended as {job.state}")
        name = request.requested_state.name.removeprefix("JOB_STATE_")
        job.wanted = {"DRAINED": "DRAINED", "DRAINING": "DRAINED"}.get(name, "CANCELLED")
        self._become(job, "DRAINING" if job.wanted == "DRAINED" else "CANCELLING")
        self._say(job, f"Cancel request is committed for workflow job: {job.proto.id}.")
        self._end(job)

    def _messages(self, job: Running, query: dict[str, str]) -> Answer:
        least = query.get("minimumImportance", "JOB_MESSAGE_BASIC")
        names = api.JobMessageImportance
        lowest = IMPORTANCE.index(names(int(least)) if least.isdigit() else names[least])
        since = query.get("startTime")
        start = datetime.fromisoformat(since.replace("Z", "+00:00")) if since else None
        messages = [
            message
            for message in job.messages
            if IMPORTANCE.index(message.message_importance) >= lowest
            and (start is None or message.time.timestamp() >= start.timestamp())
        ]
        first = int(query.get("pageToken") or 0)
        size = int(query.get("pageSize") or 100)
        rest = str(first + size) if first + size < len(messages) else ""
        page = messages[first : first + size]
        return _answer(api.ListJobMessagesResponse(job_messages=page, next_page_token=rest))

    def _metrics(self, job: Running) -> Answer:
        updates = [
            api.MetricUpdate(
                name=api.MetricStructuredName(origin="dataflow/v1b3", name=name), scalar=value
            )
            for name, value in job.usage().items()
        ]
        return _answer(api.JobMetrics(metrics=updates, metric_time=datetime.now(UTC)))

    def _page(self, job: Running) -> Answer:
        lines = "".join(f"<li>{html.escape(message.message_text)}</li>" for message in job.messages)
        text = f"<h1>{html.escape(job.name)}</h1><p>{job.state}</p><ol>{lines}</ol>"
        return Answer(200, text.encode(), {"Content-Type": "text/html; charset=utf-8"})

    def _become(self, job: Running, state: str) -> None:
        with self._lock:
            job.state = state
            job.proto.current_state = api.JobState[f"JOB_STATE_{state}"]
            job.proto.current_state_time = datetime.now(UTC)

    def _say(self, job: Running, text: str, level: str = "BASIC") -> None:
        with self._lock:
            job.messages.append(
                api.JobMessage(
                    id=f"msg{len(job.messages):05d}",
                    time=datetime.now(UTC),
                    message_text=text,
                    message_importance=api.JobMessageImportance[f"JOB_MESSAGE_{level}"],
                )
            )

    def _run(self, job: Running) -> None:
        waited = time.monotonic() + job.plan.slow_start
        while time.monotonic() < waited and not job.wanted:
            time.sleep(0.05)
        if not job.wanted:
            pool = job.proto.environment.worker_pools[0]
            place = job.proto.location
            self._say(job, f"Worker configuration: {pool.machine_type or 'default'} in {place}.")
            job.began = time.monotonic()
            self._become(job, "RUNNING")
        code, losses = 1, job.plan.lose_worker
        while not job.wanted and job.proto.id in self.jobs:
            code, is_lost = self._work(job, is_doomed=losses > 0 or job.plan.preempt)
            if not is_lost or job.plan.preempt:
                break
            losses -= 1
            self._say(job, "A worker was lost; its work is given to another.", "WARNING")
        job.ended = time.monotonic() if job.began else 0.0
        if job.wanted:
            self._become(job, job.wanted)
        elif code == 0:
            self._say(job, "Worker pool stopped.")
            self._become(job, "DONE")
        else:
            what = "its machines were preempted" if job.plan.preempt else "see the error above"
            self._say(job, f"Workflow failed: {what}.", "ERROR")
            self._become(job, "FAILED")

    def _work(self, job: Running, *, is_doomed: bool) -> tuple[int, bool]:
        """Run the pipeline on a worker.

        Returns:
            The exit code, and whether the worker was preempted.
        """
        options = job.proto.environment.sdk_pipeline_options["options"]
        here, there = CONTEXT.Pipe(duplex=False)
        job.workers += 1
        job.process = CONTEXT.Process(
            target=work, args=(str(options["pipelineUrl"]), self.storage, there), daemon=True
        )
        job.process.start()
        there.close()
        is_lost = False
        with contextlib.suppress(EOFError):
            while True:
                text, level = here.recv()
                self._say(job, text, level)
                if not any(step in text for step in ("Transform", "Sample")) or is_lost:
                    continue
                if job.plan.vanish:
                    with self._lock:
                        self.jobs.pop(job.proto.id, None)
                while job.plan.hold and not job.wanted:
                    time.sleep(0.05)
                if is_doomed:
                    is_lost = True
                    self._end(job)
        job.process.join()
        return job.process.exitcode or 0, is_lost

    @staticmethod
    def _end(job: Running) -> None:
        if job.process is not None:
            job.process.kill()


def _answer(message: Any) -> Answer:
    text = json_format.MessageToJson(type(message).pb(message))
    return Answer(200, text.encode(), {"Content-Type": "application/json; charset=UTF-8"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    asked = parser.parse_args()
    served = Dataflow(asked.port, storage=asked.storage, host=asked.host)
    print(served.endpoint, flush=True)  # noqa: T201
    served.start()
    threading.Event().wait()
