"""A rehearsal from the shell: the same lock is safe, and a planted change is reported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nights import TREES, Shell
from preloaded import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.txt"
QUICK = ("--seeds", "2", "--no-latency", "--margin", "0.0005")
SOURCE = {"kind": "simulator", "rows_per_day": 1500, "users": 300, "ads": 100}


@pytest.fixture(scope="session")
def removals() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Collect processes that remove folders while other tests run."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    assert [process.wait() for process in started] == [0] * len(started)


@pytest.fixture
def sampled(shell: Shell, removals: list[subprocess.Popen[bytes]]) -> Iterator[Shell]:
    """Return a shell with a sampled night; its cache is on the disk of the running environment.

    The environments of a rehearsal are hard links to this one's files.
    """
    cache = tempfile.mkdtemp(prefix="rehearsals-", dir=sys.prefix)
    shell.environment["NIGHTBID_CACHE"] = cache
    try:
        # Trees train without TensorFlow, whose import takes most of a worker's time.
        shell.write(source=SOURCE, model=TREES, baseline=TREES)
        code, output = shell.run("run", "small", "--date", "2026-01-06", "--until", "sample")
        assert code == 0, output
        yield shell
    finally:
        # An environment has more than 100,000 files: to remove them takes seconds of disk time.
        removals.append(subprocess.Popen(["rm", "-rf", cache]))


def report_of(shell: Shell) -> dict:
    (path,) = (shell.workspace / "rehearsals" / "small").glob("*/rehearsal.json")
    report: dict = json.loads(path.read_text())
    return report


def rehearse(shell: Shell, folder: Path, candidate: Path, *more: str) -> tuple[int, str]:
    """Rehearse a lock in a preloaded Python, which is the present side's, too.

    An environment that the rehearsal builds has a plain Python.
    """
    python = folder / "bin" / "python"
    python.parent.mkdir()
    COMMANDS.shim(python, "python", own_code=True)
    (python.parent / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    done = subprocess.run(
        [str(python), "-m", "nightbid", "rehearse", "small", "--requirements", str(candidate),
         "--present", str(LOCK), *QUICK, *more],
        env=shell.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=500, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_same_lock_is_safe_and_a_rehearsal_of_older_code_starts_over(
    sampled: Shell, tmp_path: Path
) -> None:
    # A rehearsal that was killed before an upgrade of Nightbid left this file.
    cache = Path(sampled.environment["NIGHTBID_CACHE"])
    left = cache / "rehearsals/r1/source/nightbid/rehearse/worker.py"
    left.parent.mkdir(parents=True)
    left.write_text("raise SystemExit('the code of another version')")
    code, output = rehearse(sampled, tmp_path, LOCK, "--name", "r1")
    assert code == 0, output
    assert "the code of Nightbid changed" in output
    assert "both sides run in the present environment" in output
    assert not list(cache.glob("environments/*/bin"))
    assert report_of(sampled)["verdict"] == "safe", output


def test_rehearsal_detects_a_changed_metric_default_and_transform(
    sampled: Shell, tmp_path: Path
) -> None:
    wheel = planted(
        tmp_path,
        ("config/models.py", "learning_rate: float = Field(default=2e-3", "learning_rate: float"
         " = Field(default=2e-5"),
        ("models/tree_architectures/gradient_boosted_trees.py", "learning_rate: float = 0.05",
         "learning_rate: float = 0.0005"),
        ("evaluation/scores.py", "losses: Floats = -(", "losses: Floats = -1.0001 * ("),
        ("features/transforms/numbers.py", "(values - center) * inverse", "(values - center) *"
         " (inverse * 1.000001)"),
    )  # fmt: skip
    candidate = tmp_path / "candidate.txt"
    candidate.write_text(f"{LOCK.read_text()}\nnightbid @ {wheel.as_uri()}\n")
    code, output = rehearse(sampled, tmp_path, candidate)
    assert code == 1, output
    (packages,) = Path(sampled.environment["NIGHTBID_CACHE"]).glob("environments/*/lib/*/site-*")
    assert (packages / "numpy").is_dir()
    assert not (packages / "pytest").exists(), "the lock does not pin it"
    report = report_of(sampled)
    assert report["verdict"] == "not safe"
    for text in ("learning_rate", "log_loss", "ad_age_days", "nightbid"):
        assert text in output, output
    assert "training" in {cause["kind"] for cause in report["causes"]}


def planted(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """Build a wheel of Nightbid with some changed lines."""
    source = folder / "source"
    shutil.copytree(ROOT / "include" / "nightbid", source / "include" / "nightbid",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("pyproject.toml", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name, before, after in changes:
        path = source / "include" / "nightbid" / name
        text = path.read_text()
        assert before in text, name
        path.write_text(text.replace(before, after))
    subprocess.run(
        [str(Path(sys.executable).with_name("uv")), "build", "--wheel", "--quiet", "--offline",
         "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder / "wheels"),
         str(source)],
        check=True,
    )  # fmt: skip
    (wheel,) = (folder / "wheels").glob("*.whl")
    return wheel
