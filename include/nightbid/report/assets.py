"""The scripts of the pages: the chart library as vendored, and ours that draws with it.

`assets/plot.json` says what the library is made of; `make charts` makes it again.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

FOLDER = Path(__file__).parent / "assets"
NAMES = ("plot.min.js", "charts.js")


@dataclass(frozen=True)
class Script:
    """One of our own scripts."""

    name: str
    text: Markup

    @property
    def sha256(self) -> bytes:
        """Of its bytes."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def source(self) -> str:
        """How a Content-Security-Policy allows this very script inline."""
        return f"'sha256-{base64.b64encode(self.sha256).decode()}'"


@cache
def scripts() -> tuple[Script, ...]:
    """In the order in which a page with charts runs them."""
    return tuple(Script(name, Markup((FOLDER / name).read_text("utf-8"))) for name in NAMES)  # noqa: S704 - our files


@cache
def inline_policy() -> str:
    """Content-Security-Policy of a document of its own: these scripts, its style, no more."""
    allowed = " ".join(each.source for each in scripts())
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"
