"""What a gate would stop, with the thresholds: the typed `gates` block."""

from __future__ import annotations

from nightbid.config.base import Block


class Gates(Block):
    """Thresholds of every gate of a pipeline."""
