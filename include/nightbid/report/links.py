"""Link targets of a page. A file to be mailed has no links; pages on a server override them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from nightbid.report.assets import Script
from nightbid.report.run_view import RunView, StageView


class RunReference(Protocol):
    """Object that names a run: its head, its summary, or its champion."""

    @property
    def pipeline(self) -> str:
        """Name of the run's pipeline."""

    @property
    def run_id(self) -> str:
        """Id of the run, safe as a file name."""


class Links:
    """Links of a standalone file: all empty. Pages on a server override the methods."""

    base: str | None = None
    """Root path of the pages; None for a standalone document, which has no navigation."""
    script: str = ""
    """Path of an optional script that adapts a page to its frame; empty: none."""

    token: str = ""
    """Token of the forms on these pages; empty: the user may not act."""

    def act(self, pipeline: str, action: str) -> str:
        """Address to which a form posts an action."""
        return ""

    def asset(self, script: Script) -> str:
        """Address of a chart script; empty: the page contains the script."""
        return ""

    def nights(self, pipeline: str = "") -> str:
        """Address of the list of all runs, or of the runs of one pipeline."""
        return ""

    def sweeps(self, pipeline: str) -> str:
        """Address of the list of sweep trials, of one pipeline or of all."""
        return ""

    def sweep(self, pipeline: str, name: str) -> str:
        """Address of the page of a sweep."""
        return ""

    def run(self, run: RunReference) -> str:
        """Address of the page of a run."""
        return ""

    def page(self, pipeline: str, number: int, query: Mapping[str, str] | None = None) -> str:
        """Address of a page of a long list of runs, with its filter."""
        return ""

    def kind(self, pipeline: str, kind: str) -> str:
        """Address of the list of runs of one kind."""
        return ""

    def compare(self, pipeline: str) -> str:
        """Address of the page that compares runs; it takes a parameter `run` for each."""
        return ""

    def checks(self, gate: str, check: str = "") -> str:
        """Address of the description of a gate's checks, or of one, with or without its column."""
        return ""

    def costs(self) -> str:
        """Address of the costs by pipeline and month."""
        return ""

    def data_checks(self) -> str:
        """Address of the list of inspected folders."""
        return ""

    def data_check(self, name: str) -> str:
        """Address of the page of an inspected folder."""
        return ""

    def rehearsals(self) -> str:
        """Address of the list of rehearsed upgrades of all pipelines."""
        return ""

    def rehearsal(self, pipeline: str, name: str) -> str:
        """Address of the report of a rehearsed upgrade."""
        return ""

    def champion(self, pipeline: str) -> str:
        """Address of the history of a champion."""
        return ""

    def output(self, stage: StageView) -> str:
        """Address of the output of a stage."""
        return ""

    def log(self, run: RunReference, stage: str) -> str:
        """Address of the log of a stage's newest attempt."""
        return ""

    def dag_run(self, run: RunReference) -> str:
        """Address of the run in Airflow; empty if Airflow does not know the run."""
        return ""

    def others(self, view: RunView) -> list[tuple[str, str]]:
        """List further links of a run, as (text, address)."""
        return []
