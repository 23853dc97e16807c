"""The notebooks of the documentation run to their end on a night of a small pipeline."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipeline.conftest import Shell

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
PARAMETERS = {
    "results": 'PIPELINE = "small"\nNIGHT = "2026-01-06"',
    "try_a_feature": 'PIPELINE = "small"\nNIGHT = "2026-01-06"\nTRIAL = "trial"\n'
    'FEATURE = "features.hour={transform: hour, column: time}"',
}
SAYS = {"results": "in the manifest", "try_a_feature": "hour"}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("notebooks"))
    shell.write()
    code, said = shell.run("run", "small", "--date", "2026-01-06")
    assert code == 0, said
    return shell


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_a_notebook_runs_on_another_pipeline(name: str, night: Shell) -> None:
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert all(cell.get("outputs") is not None for cell in book.cells if cell.cell_type == "code")
    cell = next(each for each in book.cells if "parameters" in each.metadata.get("tags", ()))
    cell.source = PARAMETERS[name]
    client = NotebookClient(book, timeout=300, kernel_name="python3")
    client.execute(env={**os.environ, **night.environment})
    printed = "".join(str(cell.get("outputs", "")) for cell in book.cells)
    assert SAYS[name] in printed
