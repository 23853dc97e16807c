"""These tests have their own Airflow, whose new home is set before Airflow is imported."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from small_pipeline import PIPELINE, WARNINGS_ONLY

ROOT = Path(__file__).resolve().parents[2]
HOME = tempfile.mkdtemp(prefix="nightbid-airflow-")
SMALL = {**PIPELINE, "gates": WARNINGS_ONLY}
"""A pipeline with a night that takes seconds."""

os.environ.update(
    {
        "AIRFLOW_HOME": HOME,
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{HOME}/logs",
    }
)
# As Airflow does in every component.
sys.path.append(str(ROOT / "plugins"))

Write = Callable[..., Path]


def installation(place: Path, patch: pytest.MonkeyPatch) -> Write:
    """Set the folders of an installation; return a function that writes its pipelines."""
    folder = place / "pipelines"
    folder.mkdir()
    patch.setenv("NIGHTBID_PIPELINES", str(folder))
    patch.setenv("NIGHTBID_WORKSPACE", str(place / "workspace"))
    patch.setenv("NIGHTBID_CACHE", str(place / "cache"))
    patch.setenv("NIGHTBID_TRACKING", "")
    patch.setenv("NIGHTBID_POLL_SECONDS", "0.5")
    patch.setenv("AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY", "2")

    def write(name: str = "small", text: str = "", **changes: object) -> Path:
        tree = {**SMALL, "pipeline": name, **changes}
        (folder / f"{name}.yaml").write_text(text or yaml.safe_dump(tree))
        return folder

    return write


@pytest.fixture
def pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes pipelines (dictionaries or text, even broken) for a test."""
    return installation(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared_pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Write]:
    """Return a function that writes pipelines for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        yield installation(tmp_path_factory.mktemp("installation"), patch)


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """Create the metadata database once."""
    from airflow.utils import db

    db.initdb()
