"""Starts the stack for real, runs a night through it, and takes it down: `make compose-test`.

    python tests/compose/check.py [--keep]

The check works on a copy of the project, as a user would: it makes `.env`, starts the stack, adds a
pipeline, triggers its DAG over REST, restarts the scheduler and the triggerer mid-run, and reads
the result in PostgreSQL, in MLflow and from the scorer.

Without a Docker daemon, the check is skipped and says why (see `containers.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "plugins"), str(ROOT / "include"), str(Path(__file__).parent)]

import containers  # noqa: E402
import httpx  # noqa: E402
from nightbid_airflow.embedded.client import AirflowClient  # noqa: E402

MOST_SECONDS = int(os.environ.get("COMPOSE_TEST_SECONDS") or 4200)
"""Time limit of the whole check: the CI has 90 minutes and other tests."""
STACK_SECONDS = 1200
"""Part of the limit for the stack; the images must be ready before."""
PATIENCE = 1200.0
NIGHT = 2400.0
"""Seconds for two minutes of work on a machine that may be busy."""
PORTS = {"PORT": "18080", "MLFLOW_PORT": "15000", "SCORER_PORT": "18090"}
DAG, RUN = "nightly_small", "compose-check"
PARTS = ("docker-compose.yaml", "Dockerfile", "requirements.txt", ".dockerignore",
         "compose", "dags", "include", "plugins", "tests/cloud/emulator")  # fmt: skip
LET_PASS = 'check: "*", name: check, reason: only the mechanics are judged, until: 2099-01-01'
SMALL = [
    "source.rows_per_day=6000",
    "source.users=800",
    "source.ads=300",
    "train.epochs=1",
    "train.refit=false",
    "model.architecture=logistic_regression",
    "gates.overrides=["
    + ", ".join(f"{{gate: {gate}, {LET_PASS}}}" for gate in ("raw", "features", "model", "serving"))
    + "]",
]
"""Settings of a night of one to two minutes. The model is the baseline's, so the comparison is
neutral and the model is promoted."""
VALUES = {"string": "x", "int": 1, "double": 0.5, "float": 0.5, "list": [], "timestamp":
          "2026-01-09T12:00:00Z"}  # fmt: skip
"""An example value of each column type."""


class Stack:
    """The services in a copy of the project."""

    def __init__(self, folder: Path, compose: list[str]) -> None:
        self.folder = folder
        self._compose = [*compose, "--project-name", "nightbid-check", "--profile", "emulated"]

    def compose(self, *words: str, seconds: float = 600, check: bool = True) -> str:
        """Run a Compose command and return its output."""
        done = subprocess.run(
            [*self._compose, *words],
            cwd=self.folder, env={**os.environ, **PORTS, "SCORED": "small"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        if check and done.returncode:
            sys.exit(f"docker compose {' '.join(words)}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout

    def ask(self, query: str) -> str:
        """Run a query in the stack's PostgreSQL and return one line per row."""
        return self.compose("exec", "-T", "postgres", "psql", "-U", "airflow",
                            "-tAc", query, "airflow").strip()  # fmt: skip

    def pipeline(self, name: str) -> None:
        """Write a copy of `ctr` without a schedule."""
        folder = self.folder / "include" / "pipelines"
        text = (folder / "ctr.yaml").read_text().replace("pipeline: ctr", f"pipeline: {name}")
        text, count = re.subn("(?m)^schedule: .*$", "schedule: null", text)
        assert count == 1
        (folder / f"{name}.yaml").write_text(text)

    def secrets(self) -> dict[str, str]:
        """Return the variables of `.env`."""
        lines = (self.folder / ".env").read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="Leave the stack running.")
    keep = parser.parse_args().keep
    began = time.monotonic()
    try:
        if MOST_SECONDS <= STACK_SECONDS:
            raise containers.Unavailable(f"{MOST_SECONDS} s are left, it needs {STACK_SECONDS}")
        signal.signal(signal.SIGTERM, too_long)
        signal.signal(signal.SIGALRM, no_images)
        signal.alarm(MOST_SECONDS - STACK_SECONDS)
        with containers.daemon() as owned:
            compose = containers.compose_command()
            containers.build()
            signal.signal(signal.SIGALRM, too_long)
            signal.alarm(max(int(MOST_SECONDS - (time.monotonic() - began)), 1))
            with running(compose, keep and not owned) as stack:
                check(stack)
    except containers.Unavailable as why:
        print(f"compose-test skipped: {why}", flush=True)  # noqa: T201
        return
    print(f"compose-test passed in {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201


def no_images(number: int, frame: object) -> None:
    """Give up before the stack starts: the network is slow, and no check has failed."""
    signal.alarm(0)
    waited = MOST_SECONDS - STACK_SECONDS
    raise containers.Unavailable(f"the images were not ready within {waited} s")


def too_long(number: int, frame: object) -> None:
    """Stop in order, so that everything that was started is removed."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(f"compose-test ended by {signal.Signals(number).name}, at most {MOST_SECONDS} s")


@contextlib.contextmanager
def running(compose: list[str], keep: bool) -> Iterator[Stack]:
    """Make the stack in a copy of the project and remove both at the end."""
    folder = Path(tempfile.mkdtemp(prefix="nightbid-compose-"))
    folder.chmod(0o755)  # the services' user reads the code
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        else:
            shutil.copy2(ROOT / part, folder / part)
    stack = Stack(folder, compose)
    try:
        yield stack
    except BaseException:
        print(stack.compose("ps", "--all", check=False), flush=True)  # noqa: T201
        print(stack.compose("logs", "--tail", "40", check=False), flush=True)  # noqa: T201
        raise
    finally:
        if not keep:
            stack.compose("down", "--volumes", "--timeout", "20", check=False)
            shutil.rmtree(folder, ignore_errors=True)


def check(stack: Stack) -> None:
    """Run every check of the stack."""
    step("start", lambda: start(stack))
    step("services", lambda: services(stack))
    step("a night", lambda: night(stack))
    step("PostgreSQL", lambda: in_postgres(stack))
    step("MLflow", in_mlflow)
    step("scorer", lambda: scored(stack))
    step("a bucket, a Dataflow job and a custom job of the emulators", lambda: in_a_bucket(stack))


def step(name: str, work: Callable[[], None]) -> None:
    """Run one check and print its duration."""
    began = time.monotonic()
    work()
    containers.step(name, began)


def until(what: str, found: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until a condition is true, even if a server is not up yet or slow."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError, OSError):
            if value := found():
                return value
        time.sleep(2)
    sys.exit(f"{what}: not within {seconds:.0f} s")


def start(stack: Stack) -> None:
    """Start the stack as `make up` does, with the images already built."""
    stack.pipeline("small")
    subprocess.run(["bash", "compose/env.sh"], cwd=stack.folder, check=True, timeout=60)
    first = (stack.folder / ".env").read_text()
    subprocess.run(["bash", "compose/env.sh"], cwd=stack.folder, check=True, timeout=60)
    assert (stack.folder / ".env").read_text() == first, "secrets are made once"
    stack.compose("up", "--detach", "--no-build", seconds=900)


def services(stack: Stack) -> None:
    """Check that all services are healthy, none runs as root, and no secret is in the image."""

    shown = '{{.Label "com.docker.compose.service"}} {{.Status}}'
    ours = "label=com.docker.compose.project=nightbid-check"

    def healthy() -> bool:
        listing = containers.run("docker", "ps", "--all", "--filter", ours, "--format", shown,
                                 quiet=True)  # fmt: skip
        states = dict(line.split(" ", 1) for line in listing.splitlines())
        assert len(states) == 12, states
        ended = states.pop("init")
        return "(0)" in ended and all("(healthy)" in state for state in states.values())

    until("healthy services", healthy)
    for service in ("scheduler", "postgres", "mlflow", "scorer", "storage", "dataflow", "training"):
        user = stack.compose("exec", "-T", service, "id", "-u").strip()
        assert user != "0", f"{service} runs as root"
    for service, path in (("scorer", "/data/workspace/x"), ("mlflow", "/data/workspace/x")):
        message = stack.compose("exec", "-T", service, "touch", path, check=False)
        names = stack.compose("exec", "-T", "scheduler", "ls", "-A", "/data/workspace")
        assert "x" not in names.split(), f"{service} can write the workspace {message}"
        logins = stack.compose("exec", "-T", service, "cat", "/data/airflow/passwords.json",
                               check=False)  # fmt: skip
        assert not logins, f"{service} can read the logins"
    image = containers.run("docker", "image", "inspect", "nightbid:local", quiet=True)
    image += containers.run("docker", "history", "--no-trunc", "nightbid:local", quiet=True)
    for name, value in stack.secrets().items():
        assert value not in image, f"{name} is in the image"


def night(stack: Stack) -> None:
    """Run a night over REST and restart scheduler and triggerer during it."""
    password = stack.secrets()["ADMIN_PASSWORD"]
    with AirflowClient(f"http://127.0.0.1:{PORTS['PORT']}", "admin", password) as client:
        until("Airflow", client.is_healthy)
        # The stack already runs: it mounts the folder and reads the new file.
        stack.pipeline("another")
        until("DAGs", lambda: client.has_dag(DAG) and client.has_dag("nightly_another"))
        assert not client.import_errors(), client.import_errors()
        client.unpause(DAG)
        client.trigger(DAG, RUN, {"date": "2026-01-08", "overrides": SMALL})

        def ended() -> bool:
            return client.run_state(DAG, RUN) in ("success", "failed")

        def succeeded(task: str) -> bool:
            return any(t.name == task and t.state == "success" for t in client.tasks(DAG, RUN))

        until("gate_raw", lambda: succeeded("gate_raw") or ended())
        stack.compose("restart", "--timeout", "20", "scheduler", "triggerer")
        until("the night", ended, NIGHT)
        if client.run_state(DAG, RUN) != "success":
            sys.exit(f"the night failed: {[(t.name, t.state) for t in client.tasks(DAG, RUN)]}")


def in_postgres(stack: Stack) -> None:
    """Check Airflow's record of the night and the ledger of its costs."""
    answer = stack.ask(
        f"select r.state, count(t.*) filter (where t.state = 'success') from dag_run r"
        f" join task_instance t using (dag_id, run_id) where r.run_id = '{RUN}' group by 1"
    )
    state, _, succeeded = answer.partition("|")
    assert state == "success", answer
    assert int(succeeded) >= 13, f"every stage of the night: {answer}"
    costs = stack.ask(
        f"select count(distinct stage), count(*) from nightbid.ledger where run_id = '{RUN}'"
    )
    stages, _, entries = costs.partition("|")
    assert int(stages) >= 13, f"stages in the ledger, entries: {costs}"
    shown = stack.compose("exec", "-T", "scheduler", "bash", "/app/compose/start.sh",
                          "nightbid", "cost", "show", "small", "--by", "stage")  # fmt: skip
    assert "featurize" in shown, (entries, shown)


def _mlflow(what: str, body: dict[str, Any]) -> dict[str, Any]:
    address = f"http://localhost:{PORTS['MLFLOW_PORT']}/api/2.0/mlflow/{what}"
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), kind)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def in_mlflow() -> None:
    """Check the run that the night logged, with its metrics."""

    def logged() -> dict[str, Any] | None:
        experiments = _mlflow("experiments/search", {"max_results": 20}).get("experiments") or []
        names = [experiment["experiment_id"] for experiment in experiments]
        wanted = {"experiment_ids": names, "filter": f"tags.`nightbid.run` = '{RUN}'"}
        runs = _mlflow("runs/search", wanted).get("runs") or []
        return next((run for run in runs if run["info"]["status"] == "FINISHED"), None)

    run = until("MLflow", logged, 300)
    metrics = {metric["key"] for metric in run["data"]["metrics"]}
    assert any("auc" in name for name in metrics), metrics


def scored(stack: Stack) -> None:
    """Check that the promoted model serves without a restart."""
    address = f"http://localhost:{PORTS['SCORER_PORT']}"

    def champion() -> Any:
        with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
            return json.load(answer)["champion"]

    serving = until("the champion at the scorer", champion, 120)
    assert serving["run_id"] == RUN, serving
    with urllib.request.urlopen(f"{address}/columns", timeout=30) as answer:
        types = json.load(answer)["columns"]
    row = {name: next(value for kind, value in VALUES.items() if text.startswith(kind))
           for name, text in types.items()}  # fmt: skip
    body = json.dumps({"rows": [row, {**row, "time": "2026-01-09T18:00:00Z"}]}).encode()
    with urllib.request.urlopen(f"{address}/score", body, timeout=60) as answer:
        scores = json.load(answer)
    assert scores["champion"]["number"] == 1, scores
    assert len(scores["probabilities"]) == 2
    assert all(0 < probability < 1 for probability in scores["probabilities"])


def in_a_bucket(stack: Stack) -> None:
    """Run a night in the emulator's bucket: Dataflow featurizes, and a custom job trains."""
    output = stack.compose(
        "exec", "-T", "-e", "NIGHTBID_SETTINGS=/app/compose/emulated.yaml",
        "-e", "NIGHTBID_WORKSPACE=", "scheduler", "bash", "/app/compose/start.sh",
        "nightbid", "run", "small", "--date", "2026-01-08", "--until", "train_baseline",
        "--set", SMALL[0], "--set", SMALL[1], "--set", SMALL[2], "--set", SMALL[-1],
    )  # fmt: skip

    def seen(address: str) -> str:
        code = f"import urllib.request as u; print(u.urlopen({address!r}).read().decode())"
        return stack.compose("exec", "-T", "scheduler", "python3", "-c", code)

    for stage in ("featurize", "train_baseline"):
        place = f"http://storage:9023/storage/v1/b/nightbid/o?prefix=nightbid/stages/small/{stage}"
        names = seen(place)
        assert re.search(rf"{stage}/[0-9a-f]+/manifest\.json", names), (output, names[:500])
    jobs = "http://dataflow:9024/v1b3/projects/nightbid-local/locations/us-central1/jobs"
    assert "JOB_STATE_DONE" in seen(jobs), output
    priced = stack.ask("select distinct service from nightbid.ledger where job <> '' order by 1")
    assert priced.split() == ["dataflow_batch", "vertex_training"], (priced, output)


if __name__ == "__main__":
    main()
