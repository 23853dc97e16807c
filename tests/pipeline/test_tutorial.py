"""The tutorial's commands run, and their output contains its excerpts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.M | re.S)


@pytest.mark.slow
def test_tutorial_commands_print_the_documented_output(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    COMMANDS.shim(tools / "nightbid")
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NIGHTBID_CACHE": str(tmp_path / "cache"),
        "NIGHTBID_TRACKING": "",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    output, variables = "", ""
    for kind, text in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if kind == "text":
            for excerpt in text.splitlines():
                pattern = ".*".join(map(re.escape, excerpt.split("…")))
                assert re.search(pattern, output, re.S), f"{excerpt!r} is not in:\n{output}"
            continue
        variables += "".join(f"{line}\n" for line in text.splitlines() if "export " in line)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", variables + text],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        output = done.stdout
        assert done.returncode == 0, f"{text}\n{output}"
