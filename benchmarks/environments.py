"""Environments of peers: one each in the user's cache folder, made from PyPI on first use.

None of what they hold is a dependency of Nightbid.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nightbid-benchmarks"


def python_of(name: str, packages: tuple[str, ...], alone: tuple[str, ...] = ()) -> str:
    """Interpreter of an environment, installed if need be.

    Args:
        name: of its folder.
        packages: what it holds.
        alone: what is installed without what it asks for.

    Raises:
        RuntimeError: it cannot be installed.
    """
    folder = CACHE / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, clear=True, with_pip=True)
        for options in ([*packages], ["--no-deps", *alone] if alone else []):
            if options:
                _pip(str(python), options)
        (folder / "ready").touch()
    return str(python)


def _pip(python: str, options: list[str]) -> None:
    command = [python, "-m", "pip", "install", "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1][:200])


OURS = sys.executable
