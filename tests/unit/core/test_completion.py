"""Tests what shell completion offers."""

from __future__ import annotations

import os

import pytest
from preloaded import COMMANDS

PROGRAM = """
import sys
from nightbid.cli.app import main

sys.argv[0] = "nightbid"
main()
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("nightbid run c", {"ctr", "cvr", "ctcvr"}),
        ("nightbid report ctr fi", {"first", "fifth"}),
        ("nightbid run ctr --until gate_f", {"gate_features"}),
        ("nightbid gates override ctr raw/label_h", {"raw/label_hour_low"}),
        ("nightbid data la", {"late"}),
        ("nightbid report nothing ", set()),
    ],
)
def test_shell_completion_offers_pipelines_runs_stages_and_checks(tmp_path, line, offered) -> None:
    for name in ("first", "fifth", "second"):
        (tmp_path / "runs" / "ctr" / name).mkdir(parents=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = COMMANDS.run(
        module=str(tmp_path / "program.py"),
        env={
            **os.environ, "_NIGHTBID_COMPLETE": "complete_bash", "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1), "NIGHTBID_WORKSPACE": str(tmp_path),
        },
    )  # fmt: skip
    assert set(done.stdout.split()) == offered, done.stderr
