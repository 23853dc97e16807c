"""Where a page's links lead. A file that is mailed around has none; a server has its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from nightbid.report.assets import Script
from nightbid.report.run_view import RunView, StageView


class Named(Protocol):
    """Whatever names a run: its head, a summary of it, a champion that came of it."""

    @property
    def pipeline(self) -> str:
        """Of the run."""

    @property
    def run_id(self) -> str:
        """Safe as a file name."""


class Links:
    """No links: what they would lead to is named as text. Pages on a server override these."""

    base: str | None = None
    """Root of the pages; None for a document of its own, which then has no navigation."""
    script: str = ""
    """A script that fits a page into what surrounds it. Nothing on a page needs it."""

    token: str = ""
    """What a form of these pages carries; empty: the reader may not act."""

    def act(self, pipeline: str, action: str) -> str:
        """Where a form asks for an action."""
        return ""

    def asset(self, script: Script) -> str:
        """A script of the charts; empty: the page holds it."""
        return ""

    def nights(self, pipeline: str = "") -> str:
        """All runs, or those of one pipeline."""
        return ""

    def sweeps(self, pipeline: str) -> str:
        """Trials of sweeps, of one pipeline or of all."""
        return ""

    def sweep(self, pipeline: str, name: str) -> str:
        """One sweep."""
        return ""

    def run(self, run: Named) -> str:
        """One run."""
        return ""

    def page(self, pipeline: str, number: int, query: Mapping[str, str] | None = None) -> str:
        """A page of a long list of runs, as it is narrowed down."""
        return ""

    def kind(self, pipeline: str, kind: str) -> str:
        """The runs of one kind."""
        return ""

    def compare(self, pipeline: str) -> str:
        """Where chosen runs are compared: takes `run`, once per run."""
        return ""

    def checks(self, gate: str, check: str = "") -> str:
        """What the checks of a gate mean; of one check, with or without its column."""
        return ""

    def costs(self) -> str:
        """Costs by pipeline and month."""
        return ""

    def data_checks(self) -> str:
        """Folders of logs that were looked at."""
        return ""

    def data_check(self, name: str) -> str:
        """One folder of logs."""
        return ""

    def rehearsals(self) -> str:
        """Rehearsed upgrades of all pipelines."""
        return ""

    def rehearsal(self, pipeline: str, name: str) -> str:
        """One rehearsed upgrade."""
        return ""

    def champion(self, pipeline: str) -> str:
        """A champion's history."""
        return ""

    def output(self, stage: StageView) -> str:
        """What a stage wrote."""
        return ""

    def log(self, run: Named, stage: str) -> str:
        """The log of a stage's newest attempt."""
        return ""

    def dag_run(self, run: Named) -> str:
        """The run in Airflow; empty if Airflow does not know it."""
        return ""

    def others(self, view: RunView) -> list[tuple[str, str]]:
        """More places to look at for one run: text and address."""
        return []
