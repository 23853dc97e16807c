"""The cost watch and a job's watch in a real triggerer that is killed and restarted.

A start of a triggerer takes ten seconds of CPU time, so all watches share the two of one test.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger
from emulator import installation
from emulator.dataflow import Dataflow, Plan
from emulator.installation import dataflow, emulated, storage
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.meter import cancel_marker
from nightbid.jobs.job import DeferredJob
from nightbid.jobs.store import job_records
from nightbid.night.attempts import StageRecord
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import begin_stage, run_stage
from nightbid.storage.workspace import Workspace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from preloaded import COMMANDS, OF_AIRFLOW, Command

__all__ = ["dataflow", "emulated", "storage"]

DAGS = Path(__file__).resolve().parents[2] / "dags"
HOUR = Decimal("0.056")
"""Price of one vCPU-hour in the cloud, in USD."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow_database")]


class Collector:
    """Receives OpenTelemetry metrics over HTTP like a collector."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], float] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportMetricsServiceRequest.FromString(body))
                answer = ExportMetricsServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, request: ExportMetricsServiceRequest) -> None:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.gauge.data_points:
                        tags = {
                            attribute.key: attribute.value.string_value
                            for attribute in point.attributes
                        }
                        name = metric.name.removeprefix("airflow.")
                        self.seen[name, tags.get("stage", "")] = point.as_double or point.as_int


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()


def log_of(run_id: str) -> str:
    """Read the log of the watching task."""
    folder = Path(os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
    logs = folder.glob(f"**/run_id={run_id}/**/*.log*")
    return "".join(path.read_text() for path in logs if path.is_file())


@pytest.fixture
def triggerer(tmp_path: Path, collector: Collector) -> Iterator[Callable[[], Command]]:
    """Start Airflow's triggerers and kill those that still run at the end."""
    started: list[Command] = []
    port = collector.server.server_address[1]

    def start() -> Command:
        log = (tmp_path / f"triggerer-{len(started)}.log").open("w")
        environment = {
            **os.environ,
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "3",
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
        }
        process = COMMANDS.start(
            "triggerer", "--skip-serve-logs", module="airflow", env=environment, stdout=log,
            imports=OF_AIRFLOW, session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        kill(process)


def kill(process: Command) -> None:
    """Kill the triggerer and its child at once, as a lost machine does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def until(true: Callable[[], Any], what: str) -> Any:
    return installation.until(true, what=what)


def cost_trigger(workspace: str, run_id: str) -> BaseTrigger:
    from nightbid_airflow.triggers import CostTrigger

    return CostTrigger(
        dag_id="nightly_small",
        run_id=run_id,
        task_id="watch_cost",
        pipeline="small",
        workspace=workspace,
        every=0.3,
    )


@pytest.fixture
def dag(pipelines: Callable[..., Path]) -> Any:
    """Put the small pipeline's DAG into the database; its nights may cost 2.5 vCPU-hours."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    pipelines(budget={"run_usd": 2.5 * 0.056})
    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(str(DAGS / "nightly.py"), bundle_path=DAGS, bundle_name="dags-folder")
    sync_bag_to_db(bag, "dags-folder", None)
    return bag.dags["nightly_small"]


def deferred_night(dag: Any, run_id: str, waiting: str, method: str, trigger: BaseTrigger) -> None:
    """Put a running DAG run into the database; one of its tasks has deferred itself."""
    from airflow.models.trigger import Trigger
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    path, arguments = trigger.serialize()
    with create_session() as session:
        run = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).create_dagrun(
            run_id=run_id,
            run_after=dt.datetime.now(dt.UTC),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=session,
        )
        row = Trigger(classpath=path, kwargs=arguments)
        session.add(row)
        session.flush()
        for task in run.get_task_instances(session=session):
            task.state = TaskInstanceState.RUNNING
            if task.task_id == waiting:
                task.state = TaskInstanceState.DEFERRED
                task.trigger_id = row.id
                task.next_method = method


def set_state(run_id: str, others_than: str, state: str) -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        others = (TaskInstance.run_id == run_id) & (TaskInstance.task_id != others_than)
        session.execute(update(TaskInstance).where(others).values(state=state))


def fired(run_id: str) -> dict[str, Any] | None:
    """Return the event that the trigger sent to the waiting task."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        task = session.scalars(
            select(TaskInstance).where(
                TaskInstance.run_id == run_id, TaskInstance.task_id == "watch_cost"
            )
        ).one()
        if task.state == "deferred":
            return None
        kwargs = task.next_kwargs
        return kwargs["__var"]["event"] if "__var" in kwargs else kwargs["event"]


class Night:
    """A night whose training runs and whose usage log a test writes."""

    def __init__(self, workspace: str, run_id: str) -> None:
        spec = find_pipeline("small", Settings().pipelines)
        self.run = RunRecord.start(
            Workspace(workspace),
            spec,
            dt.date(2026, 1, 4),
            run_id=run_id,
            trigger="airflow",
        )
        self.usage_log = self.run.usage_file("train", 1)

    def work(self, hours: int, done: float) -> None:
        """Record that the training has used this many core-hours."""
        values = {"at": time.time(), "done": done, "cpu_seconds": 3600.0 * hours}
        with self.usage_log.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

    def spent(self) -> Decimal:
        """Return the cost in the ledger, in USD at cloud prices."""
        return total(Ledger(self.run.workspace).entries(run_id=self.run.run_id)).amount

    def end(self, state: str) -> None:
        """End the training and all other tasks."""
        error = "over" if state == "failed" else ""
        self.run.record(
            StageRecord(
                stage="train", state=state, started=dt.datetime.now(dt.UTC), seconds=1, error=error
            )
        )
        set_state(self.run.run_id, others_than="watch_cost", state="success")


class Job:
    """A night in a bucket whose featurization is a job that does not end by itself."""

    def __init__(self, workspace: str, dataflow: Dataflow) -> None:
        spec, cache = find_pipeline("small", Settings().pipelines), Settings().cache
        self.run = RunRecord.start(Workspace(workspace), spec, dt.date(2026, 1, 4), run_id="left")
        stages = {stage.name: stage for stage in NIGHT}
        run_stage(stages["sample"], spec, self.run, cache_folder=cache)
        dataflow.plans.append(Plan(hold=True))
        self.submit = partial(
            begin_stage, stages["featurize"], spec, self.run, cache_folder=cache
        )  # fmt: skip

    def trigger(self, workspace: str) -> BaseTrigger:
        """Submit the job and return the trigger of its watch."""
        from nightbid_airflow.remote import JobTrigger

        away = self.submit()
        assert isinstance(away, DeferredJob)
        attempt = away.job_record.attempt
        return JobTrigger(workspace, "small", "left", "featurize", attempt, every=0.3)


@pytest.mark.timeout(1500)
def test_watches_survive_the_kill_of_their_triggerer_and_an_outage_of_the_ledger(
    dag, triggerer, collector: Collector, tmp_path: Path, emulated: str, dataflow: Dataflow,
    postgres, database, password, monkeypatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("NIGHTBID_LEDGER", database)
    monkeypatch.delenv("NIGHTBID_WORKSPACE")
    here = str(tmp_path / "workspace")
    night = Night(here, "killed")
    night.work(1, 0.5)
    deferred_night(dag, "killed", "watch_cost", "conclude", cost_trigger(here, "killed"))
    left = Job(emulated, dataflow)
    deferred_night(dag, "left", "featurize", "resume", left.trigger(emulated))
    first = triggerer()
    until(lambda: night.spent() == HOUR, "the first poll")
    until(lambda: ("nightbid.cost.projected_usd", "train") in collector.seen, "metrics")
    assert collector.seen["nightbid.cost.projected_usd", "train"] == pytest.approx(0.112)
    until(lambda: "Executing operation" in log_of("left"), "messages of the job in the task's log")
    kill(first)
    (job,) = dataflow.jobs.values()
    messages = [message.message_text for message in job.messages]
    assert job.state == "RUNNING", messages  # the end of a triggerer is not the end of the job

    # The second triggerer counts no cost twice.
    night.work(2, 0.6)
    triggerer()
    until(lambda: night.spent() == 2 * HOUR, "the poll of the second triggerer")
    assert not cancel_marker(night.usage_log).exists()
    night.work(3, 0.7)
    until(cancel_marker(night.usage_log).exists, "the order to stop")
    assert "over its limit of 0.14 USD" in cancel_marker(night.usage_log).read_text()
    assert fired("killed") is None, "the night has not ended: the stage is on its way out"
    night.end("failed")
    event = until(lambda: fired("killed"), "the end of the watch")
    assert event["over"].startswith("run killed has cost 0.1680 USD, over its limit")
    assert Decimal(event["spent_usd"]) == night.spent() == 3 * HOUR
    until(lambda: collector.seen.get(("nightbid.cost.run_usd", "")) == pytest.approx(0.168), "sum")

    # It watches the job, too, and cancels it with its task.
    until(lambda: log_of("left").count("Workers have started") > 1, "the second triggerer")
    set_state("left", others_than="", state="failed")
    until(lambda: job.state == "CANCELLED", "the end of the job")
    until(lambda: [record.state for record in job_records(left.run)] == ["closed"], "the order")
    # The cleared task submits another job.
    resubmitted = left.submit()
    assert isinstance(resubmitted, DeferredJob)
    assert (resubmitted.job_record.attempt, len(dataflow.jobs)) == (2, 2)

    # A watch catches up after an outage of the ledger.
    night = Night(here, "outage")
    night.work(1, 0.5)
    deferred_night(dag, "outage", "watch_cost", "conclude", cost_trigger(here, "outage"))
    until(lambda: night.spent() == HOUR, "the first poll")
    postgres.stop()
    try:
        night.work(2, 0.6)
        until(lambda: "the cost ledger in PostgreSQL" in log_of("outage"), "a line in the log")
    finally:
        postgres.start()
    until(lambda: night.spent() == 2 * HOUR, "the poll after the outage")
    assert fired("outage") is None
    night.end("done")
    event = until(lambda: fired("outage"), "the end of the watch")
    assert Decimal(event["spent_usd"]) == night.spent() == 2 * HOUR
    assert password not in log_of("outage")
