"""Every column type in every role is read correctly, or refused in one line that names it.

`benchmarks/readers.py` tests every format; here Parquet in every role, the others in one.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "readers.py"


@pytest.fixture(scope="module")
def readers():
    spec = importlib.util.spec_from_file_location("readers", PATH)
    module = sys.modules["readers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["readers"]


@pytest.mark.slow
def test_parquet_types_are_read_correctly_or_rejected_in_every_role(readers, tmp_path):
    cells = list(readers.cells(tmp_path, ("parquet",)))
    assert [cell for cell in cells if cell.outcome == "WRONG"] == []
    assert len(cells) > 400
    assert sum(cell.outcome == "right" for cell in cells) > 250


@pytest.mark.slow
@pytest.mark.parametrize("name", ["orc", "avro", "jsonl", "csv"])
def test_types_of_other_formats_are_read_correctly_or_rejected(readers, tmp_path, name):
    cells = list(readers.cells(tmp_path, (name,), ("vocabulary",)))
    assert [cell for cell in cells if cell.outcome == "WRONG"] == []
    assert sum(cell.outcome == "right" for cell in cells) > 20
