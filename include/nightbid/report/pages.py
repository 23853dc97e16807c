"""Whole pages."""

from __future__ import annotations

from markupsafe import escape

from nightbid.report.view import RunView
from nightbid.runs import RunRecord


def run_document(run: RunRecord) -> str:
    """A self-contained document of one run."""
    view = RunView(run)
    rows = "".join(
        f"<tr><th scope=row>{escape(stage.name)}<td>{escape(stage.state)}"
        f"<td>{escape(stage.verdict or '')}<td>{escape(stage.cost or '')}"
        f"<td>{escape(stage.summary)}"
        for stage in view.stages
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(run.run_id)}</title>"
        f"<h1>{escape(run.run_id)}</h1><table>{rows}</table></html>"
    )
