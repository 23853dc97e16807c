"""Scripts of the pages: the vendored chart library, and Nightbid's script that uses it.

`assets/plot.json` lists the parts of the library; `make charts` rebuilds it.
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
    """A script of the pages."""

    name: str
    text: Markup

    @property
    def sha256(self) -> bytes:
        """SHA-256 digest of the script."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def source(self) -> str:
        """Source expression of a Content-Security-Policy that allows exactly this inline script."""
        return f"'sha256-{base64.b64encode(self.sha256).decode()}'"


@cache
def scripts() -> tuple[Script, ...]:
    """Get the scripts in the order in which a page with charts runs them."""
    return tuple(Script(name, Markup((FOLDER / name).read_text("utf-8"))) for name in NAMES)  # noqa: S704 - our files


@cache
def inline_policy() -> str:
    """Get the Content-Security-Policy of a standalone document: only these scripts and style."""
    allowed = " ".join(script.source for script in scripts())
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"
