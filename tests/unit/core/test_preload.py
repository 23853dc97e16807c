"""The DAG processor has imported what DAG files need before it forks a process for each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from preloaded import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
PARSE = """
import json, runpy, sys
from pathlib import Path
from nightbid_airflow.preload import preload_dag_files

preload_dag_files()
late = {}
for file in sorted(Path(sys.argv[1]).glob("*.py")):
    known = set(sys.modules)
    try:
        runpy.run_path(str(file))
    except SyntaxError:
        continue
    late[file.name] = [name for name in set(sys.modules) - known if name.startswith("nightbid")]
print(json.dumps(late))
"""


@pytest.mark.slow
def test_parsing_a_dag_file_imports_no_more_modules(tmp_path):
    folder = shutil.copytree(ROOT / "dags", tmp_path / "dags")
    (folder / "new.py").write_text("from nightbid_airflow.embedded.client import ENDED\n")
    (folder / "broken.py").write_text("from nightbid_airflow. import night\n")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "NIGHTBID_PIPELINES": str(ROOT / "include" / "pipelines"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")]),
    }
    program, python = tmp_path / "parse.py", tmp_path / "python"
    program.write_text(PARSE)
    COMMANDS.shim(python, "python", own_code=True)
    answer = subprocess.run(
        [python, program, folder], env=environment, capture_output=True, text=True, check=True
    )
    late = json.loads(answer.stdout.splitlines()[-1])
    assert late.keys() == {"new.py", *(path.name for path in (ROOT / "dags").glob("*.py"))}
    assert {name: modules for name, modules in late.items() if modules} == {}
    assert "Traceback" not in answer.stderr, answer.stderr
