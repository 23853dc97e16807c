"""The files, patches and commands of docs/extend.md work as written in a copy of the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(python|diff|sh|text)\n(.*?)^```$", re.M | re.S)
PLACE = re.compile(r"# (>>?) (\S+)\n")


@pytest.mark.slow
def test_recipes_of_the_extension_guide_work_as_written(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "include", tmp_path / "include", ignore=shutil.ignore_patterns("__pycache__")
    )
    tools = tmp_path / "bin"
    tools.mkdir()
    COMMANDS.shim(tools / "nightbid", own_code=True)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "include"),
        "NIGHTBID_PIPELINES": "include/pipelines",
        "NIGHTBID_WORKSPACE": "workspace",
        "NIGHTBID_CACHE": str(tmp_path / "cache"),
        "NIGHTBID_TRACKING": "",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }

    def done(*command: str, text: str = "") -> str:
        completed = subprocess.run(
            command, cwd=tmp_path, env=environment, input=text, text=True, timeout=400,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert completed.returncode == 0, f"{command}\n{text}\n{completed.stdout}"
        return completed.stdout

    output = ""
    for kind, text in BLOCK.findall((ROOT / "docs" / "extend.md").read_text(encoding="utf-8")):
        if kind == "python":
            place = PLACE.match(text)
            assert place, text
            with open(tmp_path / place[2], "a" if place[1] == ">>" else "w") as file:
                file.write(text[place.end() :])
        elif kind == "diff":
            done("patch", "--strip=1", "--fuzz=3", text=text)
        elif kind == "sh":
            output = done("bash", "-euo", "pipefail", "-c", text)
        else:
            for excerpt in text.splitlines():
                pattern = ".*".join(map(re.escape, excerpt.split("…")))
                assert re.search(pattern, output, re.S), f"{excerpt!r} is not in:\n{output}"
    # The code on the page follows the style of the project.
    done(sys.executable, "-m", "ruff", "check", "--quiet", "--config",
         str(ROOT / "pyproject.toml"), "include")  # fmt: skip
