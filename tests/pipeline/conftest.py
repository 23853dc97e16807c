"""Nights from the shell in separate processes, as a user runs them (see nights.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from nights import Shell, two_nights

__all__ = ["two_nights"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def make_shell(tmp_path: Path) -> Callable[..., Shell]:
    return lambda name, plain=False: Shell(tmp_path / name, plain)
