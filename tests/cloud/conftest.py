"""An installation in the profile `gcp-emulated`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from emulator.storage import Storage
from emulator.training import Training

BUCKET = "nightbid-test"


@pytest.fixture
def storage() -> Iterator[Storage]:
    """Cloud Storage with one bucket."""
    served = Storage().start()
    served.buckets[BUCKET] = {}
    yield served
    served.stop()


@pytest.fixture
def service() -> Iterator[Training]:
    """Managed training, with no job yet."""
    served = Training().start()
    yield served
    served.stop()


@pytest.fixture
def emulated(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The settings of such an installation; the root URI of its workspace."""
    for name, value in {
        "NIGHTBID_PROFILE": "gcp-emulated",
        "NIGHTBID_CLOUD__PROJECT": "nightbid-project",
        "NIGHTBID_CLOUD__REGION": "us-central1",
        "NIGHTBID_CLOUD__BUCKET": BUCKET,
        "NIGHTBID_CLOUD__STORAGE_ENDPOINT": storage.endpoint,
        "NIGHTBID_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    return f"gs://{BUCKET}/nightbid"
