"""The notebooks of the documentation run to their end on a small pipeline's night."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nights import Shell
from preloaded import COMMANDS
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
PARAMETERS = {
    "results": 'PIPELINE = "small"\nNIGHT = "2026-01-05"',
    "try_a_feature": 'PIPELINE = "small"\nNIGHT = "2026-01-05"\nTRIAL = "trial"\n'
    'FEATURE = "features.hour={transform: hour, column: time}"',
}
SAYS = {"results": "in the manifest", "try_a_feature": "hour"}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, two_nights: Path) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("notebooks"))
    shell.write()
    shell.take(two_nights)
    return shell


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a kernel whose Python has imported the libraries; see preloaded.py."""
    folder = tmp_path_factory.mktemp("jupyter")
    COMMANDS.shim(folder / "python", "python")
    kernel = folder / "kernels" / "preloaded" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [str(folder / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(
        json.dumps({"argv": command, "display_name": "preloaded", "language": "python"})
    )
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_a_notebook_runs_on_another_pipeline(
    name: str, night: Shell, jupyter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(jupyter))
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert all(cell.get("outputs") is not None for cell in book.cells if cell.cell_type == "code")
    cell = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source = PARAMETERS[name]
    # Sockets in the file system, since another program may take a free port first.
    config = Config({"KernelManager": {"transport": "ipc"}})
    client = NotebookClient(
        book, timeout=500, startup_timeout=500, kernel_name="preloaded", config=config
    )
    client.execute(env={**os.environ, **night.environment})
    printed = "".join(str(cell.get("outputs", "")) for cell in book.cells)
    assert SAYS[name] in printed
