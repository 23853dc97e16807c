"""The tests of reports share a browser; one worker runs them, see `SHARED`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browsers import browser


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """Start a Chromium for the folder."""
    with browser() as started:
        yield started
