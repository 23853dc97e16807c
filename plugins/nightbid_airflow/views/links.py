"""Where links lead on pages that Airflow serves."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from nightbid.report.assets import Script
from nightbid.report.links import Links, Named
from nightbid.report.run_view import RunView, StageView
from nightbid.tracking.logged import Logged

from nightbid_airflow.views.asgi import PREFIX


class ServedLinks(Links):
    """Addresses below the pages, and of Airflow around them.

    Args:
        base: path that the pages are served at.
        dag_runs: run id as in the records → Airflow's own, of the DAG runs that Airflow knows.
        mlflow: address of MLflow's pages, or empty.
    """

    def __init__(
        self, base: str, *, dag_runs: Mapping[str, str] | None = None, mlflow: str = ""
    ) -> None:
        self.base: str = base.rstrip("/")
        self.script = f"{self.base}/frame.js"
        self._airflow = self.base.removesuffix(PREFIX)
        self._dag_runs = dag_runs or {}
        self._mlflow = mlflow

    def nights(self, pipeline: str = "") -> str:
        """All runs, or those of one pipeline."""
        return f"{self.base}/nights/{quote(pipeline)}" if pipeline else f"{self.base}/"

    def sweeps(self, pipeline: str) -> str:
        """Trials of sweeps, of one pipeline or of all."""
        return f"{self.nights(pipeline)}?kind=sweep"

    def sweep(self, pipeline: str, name: str) -> str:
        """One sweep."""
        return f"{self.base}/sweeps/{quote(pipeline)}/{quote(name)}"

    def page(self, pipeline: str, number: int, query: Mapping[str, str] | None = None) -> str:
        """A page of a long list of runs, as it is narrowed down."""
        return f"{self.nights(pipeline)}?{urlencode({'page': number, **(query or {})})}"

    def kind(self, pipeline: str, kind: str) -> str:
        """The runs of one kind."""
        return f"{self.nights(pipeline)}?{urlencode({'kind': kind})}"

    def asset(self, script: Script) -> str:
        """A script of the charts, by an address that changes with it: browsers keep it."""
        return f"{self.base}/assets/{script.name}?v={script.sha256.hex()[:16]}"

    def run(self, run: Named) -> str:
        """One run."""
        return f"{self.base}/runs/{quote(run.pipeline)}/{quote(run.run_id)}"

    def compare(self, pipeline: str) -> str:
        """Where chosen runs are compared."""
        return f"{self.base}/compare/{quote(pipeline)}" if pipeline else ""

    def checks(self, gate: str, check: str = "") -> str:
        """What the checks of a gate mean, at the one that is named."""
        at = f"#{quote(check.partition(':')[0])}" if check else ""
        return f"{self.base}/checks/{quote(gate)}{at}"

    def act(self, pipeline: str, action: str) -> str:
        """Where a form asks for an action."""
        return f"{self.base}/act/{quote(pipeline)}/{action}"

    def costs(self) -> str:
        """Costs by pipeline and month."""
        return f"{self.base}/costs"

    def data_checks(self) -> str:
        """Folders of logs that were looked at."""
        return f"{self.base}/data-checks"

    def data_check(self, name: str) -> str:
        """One folder of logs."""
        return f"{self.data_checks()}/{quote(name)}"

    def rehearsals(self) -> str:
        """Rehearsed upgrades of all pipelines."""
        return f"{self.base}/rehearsals"

    def rehearsal(self, pipeline: str, name: str) -> str:
        """One rehearsed upgrade."""
        return f"{self.rehearsals()}/{quote(pipeline)}/{quote(name)}"

    def champion(self, pipeline: str) -> str:
        """A champion's history."""
        return f"{self.base}/champion/{quote(pipeline)}"

    def output(self, stage: StageView) -> str:
        """What a stage wrote: a gate's own page, or the manifest."""
        _, _, place = stage.uri.partition("stages/")
        return f"{self.base}/outputs/{quote(place)}" if place else ""

    def log(self, run: Named, stage: str) -> str:
        """The log of a stage's newest attempt, in Airflow."""
        there = self.dag_run(run)
        return f"{there}/tasks/{quote(stage)}" if there else ""

    def dag_run(self, run: Named) -> str:
        """The run in Airflow; empty if Airflow does not know it."""
        name = self._dag_runs.get(run.run_id)
        if name is None:
            return ""
        return f"{self._airflow}/dags/nightly_{quote(run.pipeline)}/runs/{quote(name, safe='')}"

    def others(self, view: RunView) -> list[tuple[str, str]]:
        """Read more: the report as one file, the champion, the DAG run, MLflow."""
        found = [
            ("This page as one file", f"{self.run(view.head)}/report.html"),
            ("Champion", self.champion(view.head.pipeline)),
        ]
        if run := self.dag_run(view.head):
            found.append(("In Airflow", run))
        if self._mlflow:
            logged = Logged.of(view.run.folder)
            found.append(("In MLflow", logged.page(self._mlflow) if logged else self._mlflow))
        return found
