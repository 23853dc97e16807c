"""Link targets on pages that Airflow serves."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from nightbid.report.assets import Script
from nightbid.report.links import Links, RunReference
from nightbid.report.run_view import RunView, StageView
from nightbid.tracking.logged import Logged

from nightbid_airflow.views.asgi import PREFIX


class ServedLinks(Links):
    """Addresses of the pages, and of Airflow's own pages.

    Args:
        base: Path at which the pages are served.
        dag_runs: Run id in the records → run id in Airflow, for the runs that Airflow knows.
        mlflow: URL of MLflow's pages; empty: no links to MLflow.
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
        """Address of the list of all runs, or of the runs of one pipeline."""
        return f"{self.base}/nights/{quote(pipeline)}" if pipeline else f"{self.base}/"

    def sweeps(self, pipeline: str) -> str:
        """Address of the list of sweep trials, of one pipeline or of all."""
        return f"{self.nights(pipeline)}?kind=sweep"

    def sweep(self, pipeline: str, name: str) -> str:
        """Address of the page of a sweep."""
        return f"{self.base}/sweeps/{quote(pipeline)}/{quote(name)}"

    def page(self, pipeline: str, number: int, query: Mapping[str, str] | None = None) -> str:
        """Address of a page of a long list of runs, with its filter."""
        return f"{self.nights(pipeline)}?{urlencode({'page': number, **(query or {})})}"

    def kind(self, pipeline: str, kind: str) -> str:
        """Address of the list of runs of one kind."""
        return f"{self.nights(pipeline)}?{urlencode({'kind': kind})}"

    def asset(self, script: Script) -> str:
        """Address of a chart script; it changes with the content, so that browsers can cache it."""
        return f"{self.base}/assets/{script.name}?v={script.sha256.hex()[:16]}"

    def run(self, run: RunReference) -> str:
        """Address of the page of a run."""
        return f"{self.base}/runs/{quote(run.pipeline)}/{quote(run.run_id)}"

    def compare(self, pipeline: str) -> str:
        """Address of the page that compares selected runs."""
        return f"{self.base}/compare/{quote(pipeline)}" if pipeline else ""

    def checks(self, gate: str, check: str = "") -> str:
        """Address of the description of a gate's checks, or of one of them."""
        at = f"#{quote(check.partition(':')[0])}" if check else ""
        return f"{self.base}/checks/{quote(gate)}{at}"

    def act(self, pipeline: str, action: str) -> str:
        """Address to which a form posts an action."""
        return f"{self.base}/act/{quote(pipeline)}/{action}"

    def costs(self) -> str:
        """Address of the costs by pipeline and month."""
        return f"{self.base}/costs"

    def data_checks(self) -> str:
        """Address of the list of inspected folders."""
        return f"{self.base}/data-checks"

    def data_check(self, name: str) -> str:
        """Address of the page of an inspected folder."""
        return f"{self.data_checks()}/{quote(name)}"

    def rehearsals(self) -> str:
        """Address of the list of rehearsed upgrades of all pipelines."""
        return f"{self.base}/rehearsals"

    def rehearsal(self, pipeline: str, name: str) -> str:
        """Address of the report of a rehearsed upgrade."""
        return f"{self.rehearsals()}/{quote(pipeline)}/{quote(name)}"

    def champion(self, pipeline: str) -> str:
        """Address of the history of a champion."""
        return f"{self.base}/champion/{quote(pipeline)}"

    def output(self, stage: StageView) -> str:
        """Address of the output of a stage: the page of a gate, or the manifest."""
        _, _, place = stage.uri.partition("stages/")
        return f"{self.base}/outputs/{quote(place)}" if place else ""

    def log(self, run: RunReference, stage: str) -> str:
        """Address of the log of a stage's newest attempt in Airflow."""
        address = self.dag_run(run)
        return f"{address}/tasks/{quote(stage)}" if address else ""

    def dag_run(self, run: RunReference) -> str:
        """Address of the run in Airflow; empty if Airflow does not know the run."""
        name = self._dag_runs.get(run.run_id)
        if name is None:
            return ""
        return f"{self._airflow}/dags/nightly_{quote(run.pipeline)}/runs/{quote(name, safe='')}"

    def others(self, view: RunView) -> list[tuple[str, str]]:
        """List further links of a run: report as one file, champion, DAG run, MLflow."""
        links = [
            ("This page as one file", f"{self.run(view.head)}/report.html"),
            ("Champion", self.champion(view.head.pipeline)),
        ]
        if run := self.dag_run(view.head):
            links.append(("In Airflow", run))
        if self._mlflow:
            logged = Logged.of(view.run.folder)
            links.append(("In MLflow", logged.page(self._mlflow) if logged else self._mlflow))
        return links
