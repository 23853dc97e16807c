"""Fixtures that every test may use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def kuairand_folder() -> Path:
    """The real KuaiRand nights, where they are present."""
    folder = ROOT.parent / "shared" / "data" / "kuairand_std_14d"
    if not folder.exists():
        pytest.skip(f"no KuaiRand files at {folder}")
    return folder


# Of one file: while it is open an event loop runs in this thread, which others need for theirs.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A Chromium, where there is one."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
        except Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()
