"""Where a page's links lead. A file that is mailed around has none; a server has its own."""

from __future__ import annotations

from nightbid.report.view import RunView, StageView
from nightbid.runs import RunHead


class Links:
    """No links: what they would lead to is named as text. Pages on a server override these."""

    base: str | None = None
    """Root of the pages; None for a document of its own, which then has no navigation."""

    def nights(self, pipeline: str = "") -> str:
        """All runs, or those of one pipeline."""
        return ""

    def run(self, head: RunHead) -> str:
        """One run."""
        return ""

    def costs(self) -> str:
        """Costs by pipeline and month."""
        return ""

    def champion(self, pipeline: str) -> str:
        """A champion's history."""
        return ""

    def output(self, stage: StageView) -> str:
        """What a stage wrote."""
        return ""

    def log(self, head: RunHead, stage: str) -> str:
        """The log of a stage's newest attempt."""
        return ""

    def others(self, view: RunView) -> list[tuple[str, str]]:
        """More places to look at for one run: text and address."""
        return []
