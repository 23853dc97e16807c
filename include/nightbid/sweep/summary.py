"""Results of a sweep: the winner as a command, and a self-contained page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.report.charts import Bar, ChartText, Dot, bar_chart, scatter_chart
from nightbid.report.links import Links
from nightbid.report.pages import document, render
from nightbid.storage.files import write_atomically
from nightbid.sweep.study import Sweep, Trial
from nightbid.sweep.trials import spent


class TrialRun(NamedTuple):
    """A trial's run, as a target of links."""

    pipeline: str
    run_id: str


TITLES = {"log_loss": "validation log loss", "auc": "validation AUC"}


def winner_command(sweep: Sweep, winner: Trial) -> str:
    """Return the shell command that runs the winner as a candidate, with every gate."""
    head = sweep.head
    parts = ["nightbid", "run", head.pipeline, "--date", str(head.date)]
    parts += ["--run-id", f"{head.name}-winner"]
    for override in winner.overrides:
        parts += ["--set", override]
    return shlex.join(parts)


def write_page(sweep: Sweep, settings: Settings) -> Path:
    """Write `sweep.html` next to the sweep's records.

    Returns:
        The path of the page.
    """
    path = sweep.folder / "sweep.html"
    page = sweep_document(sweep, settings, Links(), [sweep.head.pipeline])
    write_atomically(path, page.encode())
    return path


def sweep_document(sweep: Sweep, settings: Settings, links: Links, pipelines: Sequence[str]) -> str:
    """Render the page of a sweep.

    Args:
        sweep: Sweep in any state.
        settings: Settings that name the workspace, whose ledger has the costs.
        links: Targets of links; with a token, a button runs the winner.
        pipelines: Pipelines in the navigation.
    """
    ranked, trials = sweep.ranked(), sweep.trials()
    importances = sweep.importances()
    title = TITLES[sweep.head.metric]
    dots = [
        Dot(
            x=float(trial.cost_usd),
            y=float(getattr(trial, sweep.head.metric)),
            name=f"trial {trial.number}: {' '.join(trial.overrides)}",
            tone="good" if trial is ranked[0] else "s0",
        )
        for trial in ranked
    ]
    chart = scatter_chart(
        dots,
        ChartText(
            "Accuracy against cost",
            f"{counted(len(dots), 'trial')}; the best is marked.",
            "trial-figures",
        ),
        x_label="cost of the trial, USD at cloud prices",
        y_label=title,
    )
    bars = [Bar(name, share, f"{share:.0%}") for name, share in importances.items()]
    body = render(
        "sweep.html",
        {
            "head": sweep.head,
            "title": title,
            "keys": [parameter.key for parameter in sweep.space.parameters],
            "trials": [*ranked, *(trial for trial in trials if trial not in ranked)],
            "texts": {
                trial.number: [p.text(trial.values[p.key]) for p in sweep.space.parameters]
                for trial in trials
            },
            "winner": ranked[0] if ranked else None,
            "command": winner_command(sweep, ranked[0]) if ranked else "",
            "chart": chart if dots else "",
            "shares": importances,
            "importance": bar_chart(
                bars,
                ChartText(
                    "Which setting matters",
                    "Share of the variance between trials that each setting explains.",
                    "importance-figures",
                ),
                name_width=260,
            )
            if bars
            else "",
            "spent": spent(sweep, settings),
            "counts": {state: sum(trial.state == state for trial in trials)
                       for state in ("done", "pruned", "failed", "running")},
            "links": links,
            "runs": {trial.number: TrialRun(sweep.head.pipeline, trial.run_id) for trial in trials},
        },
    )  # fmt: skip
    return document(sweep.head.name, body, links=links, pipelines=list(pipelines))
