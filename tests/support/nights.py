"""Runs `nightbid` with a small pipeline from the shell, as a user does (see preloaded.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from once import made_once
from preloaded import COMMANDS, Command
from small_pipeline import PIPELINE

SMALL = {
    **PIPELINE,
    "features": {
        **PIPELINE["features"],
        "interests": {"transform": "bag"},
        "ad_age_days": {"transform": "numeric", "log1p": True},
        "position": {"transform": "identity", "size": 16, "training_only": True},
    },
    "evaluate": {"slices": ["device_type"], "bootstrap": 50, "margin_ne": 1, "margin_auc": 1},
    # So few rows say nothing about a model: the tests judge only the mechanics.
    "gates": {
        "model": {
            "entropy_loss": {},
            "auc_loss": {},
            "auc": {"warn": [0.5, None]},
            "positives": {"warn": [200, None]},
            "calibration": {"warn": [0.75, 1.33]},
            "ece": {"warn": [None, 0.1]},
            "normalized_entropy_vs_constant": {"warn": [None, 0]},
            "normalized_entropy_vs_baseline": {"warn": [None, 0.02]},
        },
        # Test machines are busy, so these tests ignore the latency of a bundle.
        "serving": {
            "p99_ms": {"warn": [None, 50]},
            "requests_per_second_per_core": {"warn": [10, None]},
        },
    },
}
"""A pipeline with a night that takes seconds."""
TREES = {"architecture": "gradient_boosted_trees", "parameters": {"trees": 30}}
"""A model and baseline for tests whose assertions hold for any model; networks take longer."""


class Shell:
    """Runs `nightbid` with a separate workspace and pipelines.

    Args:
        folder: Folder of the workspace and the pipelines.
        plain: Whether every command imports its libraries itself, with its own hash seed.
    """

    def __init__(self, folder: Path, plain: bool = False) -> None:
        self.plain = plain
        self.workspace = folder / "workspace"
        self.pipelines = folder / "pipelines"
        self.pipelines.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "NIGHTBID_WORKSPACE": str(self.workspace),
            "NIGHTBID_PIPELINES": str(self.pipelines),
            "NIGHTBID_CACHE": str(folder / "cache"),
            "NIGHTBID_TRACKING": "",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }

    def write(self, name: str = "small", text: str = "", **changes: object) -> None:
        """Write a pipeline from settings or from text, which may be broken."""
        tree = {**SMALL, "pipeline": name, **changes}
        (self.pipelines / f"{name}.yaml").write_text(text or yaml.safe_dump(tree))

    def take(self, other: Path, *parts: str) -> None:
        """Copy parts of the workspace below another folder, such as `stages`; by default all."""
        for part in parts or ("",):
            shutil.copytree(other / "workspace" / part, self.workspace / part, dirs_exist_ok=True)

    def start(self, *arguments: str) -> subprocess.Popen[str] | Command:
        """Start a command."""
        if not self.plain:
            return COMMANDS.start(*arguments, env=self.environment)
        return subprocess.Popen(
            [sys.executable, "-m", "nightbid", *arguments],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end and return its exit code and its output."""
        process = self.start(*arguments)
        text, _ = process.communicate(timeout=500)
        return process.returncode, text


@pytest.fixture(scope="session")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the nights 2026-01-04 and 2026-01-05 of `SMALL`, which is only read.

    All workers share it. A plain process ran both nights; its output is the file `output`.
    A workspace with a copy of its stages reuses them; see `Shell.take`.
    """

    def make(folder: Path) -> None:
        shell = Shell(folder, plain=True)
        shell.write()
        code, text = shell.run("run", "small", "--date", "2026-01-04", "--nights", "2")
        assert code == 0, text
        (folder / "output").write_text(text)

    return made_once(tmp_path_factory, "two-nights", make)
