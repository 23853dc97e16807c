"""Tests what shell completion offers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


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
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'nightbid'\nfrom nightbid.cli.app import"
         " main\nmain()"],
        env={
            **os.environ, "_NIGHTBID_COMPLETE": "complete_bash", "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1), "NIGHTBID_WORKSPACE": str(tmp_path),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert set(done.stdout.split()) == offered, done.stderr
