"""`nightbid compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from nightbid.cost.money import shown
from nightbid.report.view import RunView
from nightbid.report.words import number
from nightbid.runs import RunRecord


def compare_runs(runs: Sequence[RunRecord]) -> Table:
    """One column per run: figures and cost."""
    views = [RunView(run) for run in runs]
    table = Table("", *[view.head.run_id for view in views])
    for name in ("auc", "normalized_entropy", "log_loss"):
        table.add_row(
            name, *[number(view.evaluation.get("candidate", {}).get(name)) for view in views]
        )
    table.add_row("cost", *[shown(view.total_cost.amount) for view in views])
    return table
