"""A bundle runs where only onnxruntime, numpy and pyarrow are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nightbid.serving.bundle import Bundle

ROOT = Path(__file__).parents[3]
SCORE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import pyarrow.parquet as pq
from nightbid.serving.bundle import Bundle
bundle = Bundle.load(Path(sys.argv[2]))
scores = bundle.score(pq.read_table(sys.argv[3], partitioning=None))
import json
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([scores.tolist(), modules]))
"""


@pytest.fixture(scope="module")
def slim(tmp_path_factory) -> Path:
    """Return the Python of an environment with these three packages, in their locked versions."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("no uv beside the interpreter")
    folder = tmp_path_factory.mktemp("slim") / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python",
               "-c", ROOT / "requirements.txt", "onnxruntime", "numpy", "pyarrow"]  # fmt: skip
    why = ""
    for options in (["--offline"], []):
        try:
            subprocess.run([*install, *options], capture_output=True, check=True, timeout=300)
        except subprocess.CalledProcessError as error:
            why = error.stderr.decode().strip()[-200:]
        except subprocess.TimeoutExpired as error:  # a network that drops packets
            why = str(error)
        else:
            return folder / "bin" / "python"
    pytest.skip(f"the packages cannot be installed: {why}")


def test_a_bundle_loads_and_scores_without_pandas_pydantic_or_tensorflow(night, slim):
    rows = next((night.folder("sample") / "split=evaluate").rglob("*.parquet"))
    done = subprocess.run(
        [slim, "-c", SCORE, ROOT / "include", night.folder("export"), rows],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores, modules = json.loads(done.stdout)
    expected = Bundle.load(night.folder("export")).score(night.raw())
    assert np.array(scores).tobytes() == expected.tobytes()
    assert len(set(scores)) > 500
    assert not {"pandas", "pydantic", "tensorflow", "apache_beam", "airflow"} & set(modules)


def test_parsing_text_numbers_without_pandas_says_what_to_install(slim):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'include')!r}); import pyarrow as pa;"
        "from nightbid.number_parsing import numbers; numbers(pa.array(['1.5']))"
    )
    done = subprocess.run([slim, "-c", code], capture_output=True, text=True, check=False)
    assert "numbers in a column of text, and pandas is not installed → pip install pandas" in (
        done.stderr
    )
