"""A real browser for tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE = 300_000
"""Milliseconds to wait for the browser."""
ARGUMENTS = ("--no-sandbox", "--js-flags=--no-opt")
"""No page lives long enough to repay the optimization of its scripts."""


@contextmanager
def browser() -> Iterator[Any]:
    """Start a Chromium, or skip the test. Its event loop blocks the thread for other loops."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=ARGUMENTS, timeout=PATIENCE
            )
        except Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()


def new_page(browser: Any, **options: Any) -> Any:
    """Open a page that waits long for a slow machine, in a context with these options."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    return context.new_page()
