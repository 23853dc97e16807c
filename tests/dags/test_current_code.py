"""Tasks use library code that was edited after Airflow's processes had loaded the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCHEDULER = """
import os, sys
from pathlib import Path
import nightbid
from airflow.dag_processing.dagbag import DagBag
from nightbid.night.stages import NIGHT
from nightbid_airflow.preload import preload_dag_files

featurize = next(stage for stage in NIGHT if stage.name == "featurize")
preload_dag_files()
featurize.load()
path = Path(nightbid.__file__).parent / "features" / "functions.py"
path.write_text(path.read_text() + sys.stdin.read())

if os.fork() == 0:
    try:
        dag = DagBag("dags", bundle_path=Path("dags"), bundle_name="dags").dags["nightly_small"]
        from nightbid.features.functions import named_function
        from nightbid.night.key import source_of
        from nightbid_airflow.operators import StageOperator

        assert isinstance(dag.get_task("featurize"), StageOperator)
        print(len(dag.tasks), named_function("doubled")(21), len(source_of(featurize)))
    finally:
        sys.stdout.flush()
        os._exit(0)
os.wait()
"""
ADDED = """

@feature_function
def doubled(values):
    return values * 2
"""


@pytest.mark.slow
def test_a_task_uses_a_feature_function_that_was_added_after_the_start(
    tmp_path: Path, pipelines: Callable[..., Path]
) -> None:
    pipelines()
    for name in ("include", "plugins", "dags"):
        shutil.copytree(ROOT / name, tmp_path / name)
    ran = subprocess.run(
        [sys.executable, "-c", SCHEDULER],
        input=ADDED,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path / 'include'}:{tmp_path / 'plugins'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(tmp_path / "plugins"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    tasks, doubled, digest = ran.stdout.splitlines()[-1].split()
    assert int(tasks) > 10, ran.stderr
    assert (doubled, digest) == ("42", "32")
