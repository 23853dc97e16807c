"""Chaos test with a real Airflow: processes, databases and services die or hang mid-run.

    python benchmarks/chaos.py --airflow --cases 20 --out chaos.jsonl    # beside the other cases

The metadata and the ledger are in a real PostgreSQL. Each case runs a night of two pipelines at
the same time and disturbs them one to three times:

- kill -9 of the scheduler, the triggerer, the DAG processor or the API server, alone or with all
  their children, or of every task,
- tasks and workers stopped for longer than their heartbeat timeout,
- PostgreSQL killed and restarted, or down for 20 s,
- the ledger and MLflow unreachable, slow or hanging, and (`--bucket`) the object store.

A killed component restarts within ten seconds. Both nights must end in promotions, with the digests
of an undisturbed night, and the ledger must count everything once.

Every tenth case is a backfill: Airflow starts ten nights at once, a user triggers another one
manually, edits the YAML and rolls back.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psycopg
import yaml
from nightbid.config.settings import Settings
from nightbid.cost.ledger import Ledger
from nightbid.errors import NightbidError
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace, read_manifest

sys.path.append(str(Path(__file__).parents[1] / "tests" / "cloud"))
sys.path.append(str(Path(__file__).parents[1] / "plugins"))
sys.path.append(str(Path(__file__).parent))
import chaos_night
import chaos_stack
from emulator.postgres import Server, serving
from emulator.proxy import Wire
from emulator.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = ("p", "q")
FIRST = dt.date(2026, 1, 8)
NIGHT_SECONDS = 60.0
"""Window in which disturbances start, in seconds."""
PATIENCE = 600.0
LOCAL = ("scheduler", "triggerer", "dag-processor", "api-server", "tasks", "postgres", "ledger",
         "tracking", "still")  # fmt: skip


def spec(pipeline: str, epochs: int = 1) -> str:
    """Return the YAML of a pipeline."""
    return yaml.safe_dump(
        {"pipeline": pipeline, "schedule": "0 2 * * *", "start_date": str(FIRST),
         "source": {"kind": "simulator"}, "features": {"ad_id": {"min_count": 5}},
         "train": {"epochs": epochs}}
    )  # fmt: skip


class Place:
    """A running Airflow and the services that it depends on.

    Args:
        folder: Folder of everything that it writes.
        server: PostgreSQL, with the databases `airflow` and `ledger`.
        storage: The object store of the workspace; None uses a folder.
        names: Names of the pipelines.
    """

    def __init__(
        self, folder: Path, server: Server, storage: Storage | None, names: tuple[str, ...]
    ) -> None:
        from nightbid_airflow.embedded.client import AirflowClient
        from nightbid_airflow.embedded.home import USER, Home, address, free_port

        self.server, self.folder, self.names = server, folder, names
        self.wires = {"ledger": Wire(server.port), "tracking": Wire(0)}
        self.pipelines = folder / "pipelines"
        self.pipelines.mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.pipelines / f"{name}.yaml").write_text(spec(name))
        own = {
            "NIGHTBID_WORKSPACE": str(folder / "workspace"),
            "NIGHTBID_PIPELINES": str(self.pipelines),
            "NIGHTBID_CACHE": str(folder / "cache"),
            "NIGHTBID_TRACKING": f"http://127.0.0.1:{self.wires['tracking'].port}",
            "NIGHTBID_LEDGER": server.address("ledger", port=self.wires["ledger"].port),
        }
        if storage is not None:
            self.wires["storage"] = Wire(int(storage.endpoint.rpartition(":")[2]))
            own |= {
                "NIGHTBID_PROFILE": "gcp-emulated",
                "NIGHTBID_CLOUD__PROJECT": "chaos-project",
                "NIGHTBID_CLOUD__REGION": "us-central1",
                "NIGHTBID_CLOUD__BUCKET": "chaos",
                "NIGHTBID_CLOUD__STORAGE_ENDPOINT": f"http://127.0.0.1:{self.wires['storage'].port}",
                "NIGHTBID_WORKSPACE": "gs://chaos/nightbid",
            }
        os.environ.update(own)
        self.wires["tracking"].down()
        self.workspace = Workspace(own["NIGHTBID_WORKSPACE"])
        home, port = Home(folder / "airflow"), free_port()
        self.logs = home.logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self.client = AirflowClient(address(port), USER, home.password())
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self._environment = {
            **home.environment(Settings(), port, schedules=False),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(Path(__file__).parent),
                                           *filter(None, paths)]),
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN":
                server.address("airflow").replace("postgresql:", "postgresql+psycopg2:"),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            chaos_night.SECONDS: "0.5",
        }  # fmt: skip
        self._port = port
        self.stack: chaos_stack.Stack

    @contextmanager
    def running(self) -> Iterator[Place]:
        """Start Airflow, and end it on exit."""
        with chaos_stack.running(self._environment, self._port, self.logs / "stack.log") as stack:
            self.stack = stack
            self.wait(self.client.is_healthy, "health")
            for name in self.names:
                self.wait(lambda name=name: self.client.has_dag(f"nightly_{name}"), "DAGs")
                self.client.unpause(f"nightly_{name}")
            yield self

    def wait(self, holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Wait for a condition; retry while the API is down."""
        end = time.monotonic() + seconds
        while True:
            self.stack.check()
            with contextlib.suppress(httpx.HTTPError):
                if holds():
                    return
            assert time.monotonic() < end, f"waited in vain: {what}"
            time.sleep(0.5)

    def disturb(self, kind: str, draw: random.Random) -> str:
        """Disturb the stack, repair it and return a description."""
        down = draw.uniform(0, 10)
        if kind == "tasks":
            processes = self.stack.tasks()
            for process in processes:
                with contextlib.suppress(Exception):
                    process.kill()
            return f"{len(processes)} processes of tasks killed"
        if kind == "still":
            # Longer than the heartbeat timeout, so Airflow restarts the tasks meanwhile.
            processes = self.stack.tasks(workers=draw.random() < 0.7)
            seconds = draw.uniform(25, 40)
            for process in processes:
                with contextlib.suppress(Exception):
                    process.suspend()
            time.sleep(seconds)
            for process in processes:
                with contextlib.suppress(Exception):
                    process.resume()
            return f"{len(processes)} processes of tasks stood still for {seconds:.0f} s"
        if kind in chaos_stack.COMPONENTS:
            family = draw.random() < 0.5
            self.stack.kill(kind, family=family)
            time.sleep(down)
            self.stack.start(kind)
            return f"{kind}{' with its children' * family} killed, back after {down:.0f} s"
        if kind == "postgres":
            seconds = draw.choice((0, down, 20))
            self.server.stop()
            time.sleep(seconds)
            self.server.start()
            return f"PostgreSQL killed, back after {seconds:.0f} s"
        wire = self.wires[kind]
        if kind == "tracking":
            # MLflow is down otherwise; the runs wait in their queue.
            wire.up()
            time.sleep(2 * down)
            wire.down()
            return f"MLflow takes connections and answers none for {2 * down:.0f} s"
        fault = draw.choice(("down", "slow", "hang") if kind != "storage" else ("down", "slow"))
        getattr(wire, fault)()
        time.sleep(2 * down)
        wire.up()
        return f"{kind} {fault} for {2 * down:.0f} s"

    def state(self, pipeline: str, run_id: str) -> str | None:
        """Read a run's state from Airflow's database (the API may be down)."""
        with psycopg.connect(self.server.address("airflow")) as connection:
            row = connection.execute(
                "SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s",
                (f"nightly_{pipeline}", run_id),
            ).fetchone()
        return row[0] if row else None

    def tasks(self, pipeline: str, run_id: str) -> dict[str, str]:
        """Map each task that did not succeed on its first try to its state and tries."""
        with psycopg.connect(self.server.address("airflow")) as connection:
            rows = connection.execute(
                "SELECT task_id, state, try_number FROM task_instance"
                " WHERE dag_id = %s AND run_id = %s",
                (f"nightly_{pipeline}", run_id),
            ).fetchall()
        return {name: f"{state} #{tries}" for name, state, tries in rows
                if state != "success" or tries > 1}  # fmt: skip


@contextmanager
def place(folder: Path, *, bucket: bool, pipelines: int) -> Iterator[Place]:
    """Start PostgreSQL, an object store if requested, and Airflow on them."""
    with serving() as server, contextlib.ExitStack() as ends:
        with psycopg.connect(server.address("postgres"), autocommit=True) as connection:
            for name in ("airflow", "ledger"):
                connection.execute(f"CREATE DATABASE {name}")
            # As in docs/operations.md, with a shorter timeout: otherwise the orphans of a killed
            # scheduler hold its transaction, and its locks on the runs' rows, forever.
            connection.execute(
                "ALTER DATABASE airflow SET idle_in_transaction_session_timeout = '20s'"
            )
        storage = None
        if bucket:
            storage = Storage().start()
            storage.buckets["chaos"] = {}
            ends.callback(storage.stop)
        stack = Place(folder, server, storage, PIPELINES[:pipelines])
        with stack.running():
            yield stack


@cache
def expected(night: dt.date, epochs: int | None = 1) -> dict[str, str]:
    """Map each stage to its digest in an undisturbed night."""
    folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
    ledger_url = os.environ.pop("NIGHTBID_LEDGER", None)
    try:
        chaos_night.night(folder / "workspace", night, epochs=epochs)
        run = RunRecord.load(Workspace(str(folder / "workspace")), "p", chaos_night.RUN)
        return {name: read_manifest(run.workspace.at(record.uri)).digest
                for name, record in run.current().items()}  # fmt: skip
    finally:
        if ledger_url is not None:
            os.environ["NIGHTBID_LEDGER"] = ledger_url
        shutil.rmtree(folder, ignore_errors=True)


def check_night(at: Place, pipeline: str, run_id: str, night: dt.date) -> None:
    """Check that a night ended like an undisturbed one."""
    run = RunRecord.load(at.workspace, pipeline, run_id)
    for stage, digest in expected(night).items():
        record = run.stage(stage)
        assert record is not None, stage
        assert record.state == "done", f"{stage}: {record.error}"
        assert read_manifest(at.workspace.at(record.uri)).digest == digest, f"{stage} differs"
    history = ChampionPointer(at.workspace, pipeline).history()
    assert [change.number for change in history] == list(range(1, len(history) + 1))
    promotions = [change for change in history if change.run_id == run_id]
    assert len(promotions) == 1, f"{len(promotions)} promotions"
    export = run.stage("export")
    assert export is not None
    assert promotions[0].bundle_uri == export.uri
    entries = Ledger(at.workspace).entries(pipeline=pipeline, run_id=run_id)
    keys = [entry.key for entry in entries]
    assert len(keys) == len(set(keys)), "an entry is counted twice"
    used = {(record.stage, record.attempt) for record in run.records() if not record.reused}
    lost = used - {(entry.stage, entry.attempt) for entry in entries}
    assert not lost, f"not in the ledger: {sorted(lost)}"


def check_tracked(at: Place, nights: int) -> dict[str, Any]:
    """Log the runs queued for MLflow, and check that each is logged once."""
    from nightbid.tracking.log import replay

    try:
        store = f"sqlite:///{at.folder / 'mlflow.db'}"
        logged = replay(at.workspace, store)
        assert len(logged) == nights, f"{len(logged)} of {nights} runs"
        failure = ""
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    return {"case": "tracked", "kind": "tracked", "what": f"{nights} runs logged in the end",
            "seconds": 0, "failure": failure}  # fmt: skip


def check_specs(at: Place, pipeline: str) -> None:
    """Check that every output was made with the settings pinned by its run."""
    for path in (at.workspace.root / "runs" / pipeline).glob("*/run.json"):
        run = RunRecord.load(at.workspace, pipeline, path.parent.name)
        for record in run.records():
            manifest = read_manifest(at.workspace.at(record.uri))
            wanted = run.head.spec["train"]["epochs"]  # type: ignore[index]
            if record.stage == "train" and not record.reused:
                assert manifest.metrics["epochs"] == wanted, f"{run.run_id} has two minds"


def check_turns(at: Place, pipeline: str) -> None:
    """Check that no two nights ran at the same time."""
    spans = []
    for path in (at.workspace.root / "runs" / pipeline).glob("*/run.json"):
        records = RunRecord.load(at.workspace, pipeline, path.parent.name).records()
        ends = [record.started + dt.timedelta(seconds=record.seconds) for record in records]
        spans.append((min(record.started for record in records), max(ends), path.parent.name))
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        assert end <= begin, f"{first} and {second} were at work at once"


def case(at: Place, number: int, seed: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Disturb a night of each pipeline; return a record of the events and of any failure."""
    draw = random.Random(f"{seed} airflow {number}")
    night, run_id = FIRST + dt.timedelta(days=number), f"case-{number}"
    events = []
    try:
        for name in at.names:
            at.client.trigger(f"nightly_{name}", run_id, {"date": str(night)})
        began = time.monotonic()
        moments = sorted(draw.uniform(0, NIGHT_SECONDS) for _ in range(draw.randint(1, 3)))
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            kind = kinds[number % len(kinds)] if not events else draw.choice(kinds)
            events.append(f"{time.monotonic() - began:.0f} s: {at.disturb(kind, draw)}")
        for name in at.names:
            at.wait(lambda name=name: at.state(name, run_id) in ("success", "failed"), run_id)
            retries = {name: at.tasks(name, run_id)}
            assert at.state(name, run_id) == "success", retries
            if retries[name]:
                events.append(f"again: {retries}")
            check_night(at, name, run_id, night)
        failure = ""
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - began)
    return {"case": f"airflow-{number}", "kind": "airflow", "what": ", ".join(events),
            "seconds": seconds, "failure": failure}  # fmt: skip


def backfill(at: Place, number: int, seed: int, _: tuple[str, ...]) -> dict[str, Any]:
    """Start ten nights at once and one manually; edit the YAML and roll back meanwhile."""
    from chaos_race import check_race

    draw = random.Random(f"{seed} backfill {number}")
    pipeline = f"b{number}"
    path, dag = at.pipelines / f"{pipeline}.yaml", f"nightly_{pipeline}"
    path.write_text(spec(pipeline))
    acts = []
    try:
        at.wait(lambda: at.client.has_dag(dag), dag)
        request = {
            "dag_id": dag, "from_date": f"{FIRST}T00:00:00Z",
            "to_date": f"{FIRST + dt.timedelta(days=9)}T23:00:00Z",
            "reprocess_behavior": "none", "max_active_runs": 10, "run_backwards": False,
            "dag_run_conf": {},
        }  # fmt: skip
        at.wait(lambda: at.client._call("POST", "backfills", request), "backfill")
        at.client.trigger(dag, "by-hand", {"date": str(FIRST + dt.timedelta(days=4))})
        at.client.unpause(dag)
        began = time.monotonic()

        def act() -> bool:
            with psycopg.connect(at.server.address("airflow")) as connection:
                rows = connection.execute("SELECT state FROM dag_run WHERE dag_id = %s", (dag,))
                states = [row[0] for row in rows]
            kind = draw.choice(("edit", "edit", "rollback", "wait", "wait"))
            if kind == "edit":
                path.write_text(spec(pipeline, epochs=draw.randint(1, 9)))
            elif kind == "rollback":
                with contextlib.suppress(NightbidError):
                    ChampionPointer(at.workspace, pipeline).rollback("chaos", by="chaos")
            acts.append(kind)
            time.sleep(draw.uniform(1, 6))
            return len(states) >= 11 and all(state in ("success", "failed") for state in states)

        at.wait(act, "eleven nights", 2 * PATIENCE)
        check_race(at.workspace, pipeline)
        check_specs(at, pipeline)
        check_turns(at, pipeline)
        failure = ""
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    event = f"eleven nights at once, {acts.count('edit')} edits, {acts.count('rollback')} rollbacks"
    return {"case": f"backfill-{number}", "kind": "backfill", "what": event,
            "seconds": round(time.monotonic() - began), "failure": failure}  # fmt: skip


def cases(
    count: int, seed: int, done: Callable[[str], bool], *, bucket: bool, pipelines: int
) -> Iterator[dict[str, Any]]:
    """Run the cases that have not run yet.

    Args:
        count: Number of cases.
        seed: Seed of the disturbances.
        done: Tells whether a case has already run.
        bucket: Whether the workspace is in an object store, which is disturbed too.
        pipelines: Number of pipelines whose nights run at the same time.
    """
    folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
    kinds = ("storage", *LOCAL) if bucket else LOCAL
    try:
        with place(folder, bucket=bucket, pipelines=pipelines) as at:
            nights = 0
            for number in range(count):
                is_backfill = number % 10 == 9 and not bucket
                if not done(f"{'backfill' if is_backfill else 'airflow'}-{number}"):
                    nights += 11 if is_backfill else len(at.names)
                    run = backfill if is_backfill else case
                    yield run(at, number, seed, kinds)
            if nights and not bucket:
                yield check_tracked(at, nights)
    finally:
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(json.dumps({"kept": str(folder)}), flush=True)
