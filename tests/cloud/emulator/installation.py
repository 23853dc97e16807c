"""Fixtures of an installation in the profile `gcp-emulated`.

Each fixture imports its emulator: Beam and the cloud clients take seconds to import, and every
pytest process imports this file.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from emulator.dataflow import Dataflow
    from emulator.storage import Storage
    from emulator.training import Training

BUCKET = "nightbid-test"


@pytest.fixture
def storage() -> Iterator[Storage]:
    """Serve Cloud Storage with one bucket."""
    from emulator.storage import Storage

    served = Storage().start()
    served.buckets[BUCKET] = {}
    yield served
    served.stop()


@pytest.fixture
def service() -> Iterator[Training]:
    """Serve managed training without jobs."""
    from emulator.training import Training

    served = Training().start()
    yield served
    served.stop()


@pytest.fixture
def emulated(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set up the installation's settings and return the root URI of its workspace."""
    for name, value in {
        "NIGHTBID_PROFILE": "gcp-emulated",
        "NIGHTBID_CLOUD__PROJECT": "nightbid-project",
        "NIGHTBID_CLOUD__REGION": "us-central1",
        "NIGHTBID_CLOUD__BUCKET": BUCKET,
        "NIGHTBID_CLOUD__STORAGE_ENDPOINT": storage.endpoint,
        "NIGHTBID_CLOUD__POLL_SECONDS": "0.2",
        "NIGHTBID_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    return f"gs://{BUCKET}/nightbid"


@pytest.fixture
def dataflow(
    storage: Storage, emulated: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dataflow]:
    """Serve Dataflow and let it featurize."""
    from emulator.dataflow import Dataflow

    served = Dataflow(storage=storage.endpoint).start()
    monkeypatch.setenv("NIGHTBID_CLOUD__DATAFLOW__ENDPOINT", served.endpoint)
    monkeypatch.setenv("NIGHTBID_CLOUD__DATAFLOW__MACHINE_TYPE", "n2-standard-4")
    monkeypatch.setenv("NIGHTBID_CLOUD__LABELS", '{"team": "ads"}')
    yield served
    served.stop()


@pytest.fixture
def training(service: Training, emulated: str, monkeypatch: pytest.MonkeyPatch) -> Training:
    """Serve managed training and let it train."""
    image = "docker.pkg.dev/nightbid-project/nightbid/nightbid:1"
    monkeypatch.setenv("NIGHTBID_CLOUD__TRAINING__IMAGE", image)
    monkeypatch.setenv("NIGHTBID_CLOUD__TRAINING__ENDPOINT", service.endpoint)
    return service


def without_cloud() -> dict[str, str]:
    """Return this process's variables without the settings of a cloud."""
    own = ("NIGHTBID_CLOUD", "NIGHTBID_PROFILE", "NIGHTBID_WORKSPACE", "NIGHTBID_CACHE")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def until(holds: Callable[[], Any], seconds: float = 300.0, what: str = "") -> Any:
    """Wait until a condition holds and return its value; fail after a timeout.

    Args:
        holds: Condition to check. Checks take CPU time from the work under test, above all from
            Airflow, so the pauses between checks are longer than the checks.
        seconds: Timeout.
        what: Name of the condition for the failure.
    """
    end = time.monotonic() + seconds
    while True:
        looked = time.monotonic()
        if value := holds():
            return value
        now = time.monotonic()
        assert now < end, f"waited in vain: {what}"
        time.sleep(min(2.0, max(0.05, 10 * (now - looked))))


def kill(airflow: Any) -> None:
    """Kill every component and every task, as a power failure does."""
    from nightbid_airflow.embedded import process_group

    airflow.supervisor.kill()
    while left := process_group.members(airflow.supervisor.pid):
        for process in left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
