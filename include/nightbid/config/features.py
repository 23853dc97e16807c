"""The typed definition of a feature: the `features` block."""

from __future__ import annotations

from pydantic import Field

from nightbid.config.base import Block


class Feature(Block):
    """One feature: its source columns and how they become model inputs."""

    column: str = ""
    transform: str = Field(default="vocabulary")
