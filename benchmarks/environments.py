"""Environments of the peers, created from PyPI in the user's cache folder on first use.

Their packages are no dependencies of Nightbid.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nightbid-benchmarks"


def python_of(name: str, packages: tuple[str, ...], alone: tuple[str, ...] = ()) -> str:
    """Return the interpreter of an environment, and install it if needed.

    Args:
        name: Name of its folder.
        packages: Packages to install.
        alone: Packages to install without their dependencies.

    Raises:
        RuntimeError: The environment cannot be installed.
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
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError((process.stderr.strip().splitlines() or ["no message"])[-1][:200])


OURS = sys.executable
