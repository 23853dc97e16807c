"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def kuairand_folder() -> Path:
    """The real KuaiRand nights, where they are present."""
    folder = ROOT.parent / "shared" / "data" / "kuairand_std_14d"
    if not folder.exists():
        pytest.skip(f"no KuaiRand files at {folder}")
    return folder
