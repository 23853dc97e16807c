"""Python API for notebooks: open a finished run and read its results.

```python
import nightbid

run = nightbid.Run("ctr", "ctr-2026-01-08")
run.state                    # 'done'
run.metrics["auc"]           # 0.7418, of the candidate on the evaluation days
run.stages["train"].metrics  # what the stage wrote into its manifest
run.scores                   # predictions and labels of the evaluation rows, as an Arrow table
run.cost                     # of all attempts, at cloud prices; str(run.cost) is '0.12 USD'
```

Everything is read from the workspace when you ask for it; nothing is written or computed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.money import Money
from nightbid.errors import StageError
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest, Verdict
from nightbid.night.record import RunRecord, runs_of, state_of
from nightbid.storage.workspace import Workspace, read_manifest


@dataclass(frozen=True)
class StageResult:
    """The newest attempt of one stage of a run."""

    name: str
    state: Literal["done", "stopped", "failed"]
    seconds: float
    """Wall-clock time of the attempt."""
    reused: bool
    """Whether the output of an earlier run was reused."""
    verdict: Verdict | None
    """Verdict of a gate; None for other stages."""
    summary: str
    """One-line summary that the stage wrote, or its error."""
    uri: str
    """Path of the output relative to the workspace; empty if there is none."""
    manifest: Manifest | None
    """The output's manifest; None if there is no output, or it was deleted."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metrics in the manifest; empty if there is none."""
        return self.manifest.metrics if self.manifest else {}


class Run:
    """A run of a pipeline, finished or not.

    Args:
        pipeline: Name of the pipeline, for example `"ctr"`.
        run_id: Name of the run, as `nightbid runs` lists it, for example `"ctr-2026-01-08"`.
        workspace: Root of the workspace (a folder or `gs://…`); default: that of the settings.

    Raises:
        ConfigError: There is no such run in this workspace.
    """

    def __init__(
        self, pipeline: str, run_id: str, workspace: str | Workspace | None = None
    ) -> None:
        self._workspace = _open(workspace)
        self._record = RunRecord.load(self._workspace, pipeline, run_id)

    @classmethod
    def all(cls, pipeline: str, workspace: str | Workspace | None = None) -> list[Run]:
        """Open all runs of a pipeline, in order of their start, without trials of sweeps."""
        opened = _open(workspace)
        return [cls(pipeline, record.run_id, opened) for record in runs_of(opened, pipeline)]

    @classmethod
    def champion(cls, pipeline: str, workspace: str | Workspace | None = None) -> Run | None:
        """Open the run whose model serves now; None before the first promotion."""
        opened = _open(workspace)
        current = ChampionPointer(opened, pipeline).current()
        return cls(pipeline, current.run_id, opened) if current else None

    def __repr__(self) -> str:
        return f"Run({self.pipeline!r}, {self.run_id!r}) {self.night} {self.state}"

    @property
    def pipeline(self) -> str:
        """Name of the pipeline."""
        return self._record.head.pipeline

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self._record.run_id

    @property
    def night(self) -> dt.date:
        """Newest day of logs that the run used."""
        return self._record.date

    @property
    def spec(self) -> PipelineSpec:
        """The pipeline's YAML as the run used it, with its overrides."""
        return PipelineSpec.model_validate(self._record.head.spec)

    @property
    def overrides(self) -> tuple[str, ...]:
        """Settings of this run that differ from the YAML, as `key=value`."""
        return self._record.head.overrides

    @property
    def state(self) -> Literal["done", "stopped", "failed", "running"]:
        """`done`, `stopped` (by a gate), `failed`, or `running` (not finished)."""
        return state_of(self._record.head, self._newest())[0]

    @property
    def stages(self) -> dict[str, StageResult]:
        """Stage name → result of its newest attempt, in the order of their first attempt."""
        return {name: self._result(record) for name, record in self._newest().items()}

    @property
    def evaluation(self) -> dict[str, Any]:
        """The evaluation: metrics of candidate, champion and baseline, intervals, slices, verdict.

        Raises:
            StageError: The run has no evaluation (yet), or its output was deleted.
        """
        result = self.stages.get("evaluate")
        if result is None or result.manifest is None:
            raise StageError(
                f"run {self.run_id!r} is {self.state} and has no evaluation to read",
                where=f"pipeline {self.pipeline!r}",
                hint="see .stages, or run the night again",
            )
        return dict(result.manifest.metrics)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the candidate on the evaluation days, such as `auc` and `log_loss`.

        Raises:
            StageError: The run has no evaluation (yet), or its output was deleted.
        """
        return dict(self.evaluation["candidate"])

    @property
    def scores(self) -> pa.Table:
        """Predictions on the evaluation days, row by row.

        Returns:
            A table with the columns `key` and `user` (int64, hashes of `columns.key` and
            `columns.user`; rows without a user each have their own), `label` (0 or 1), `weight`,
            and the predicted probability by `candidate`, `baseline` and `champion`, where the
            evaluation had them.

        Raises:
            StageError: The run has no evaluation (yet), or it kept no scores
                (`evaluate.keep_scores: false`).
        """
        result = self.stages.get("evaluate")
        folder = self._workspace.at(result.uri) / "scores" if result and result.uri else None
        files = sorted(folder.glob("part-*.parquet")) if folder else []
        if not files:
            raise StageError(
                f"run {self.run_id!r} is {self.state} and has no scores to read",
                where=f"pipeline {self.pipeline!r}",
                hint="run it to its evaluation with evaluate.keep_scores: true",
            )
        parts = []
        for path in files:
            with path.open("rb") as file:
                parts.append(pq.read_table(file))
        table = pa.concat_tables(parts)
        return table.rename_columns([name.removeprefix("nb_") for name in table.column_names])

    @property
    def cost(self) -> Money:
        """Cost of all attempts of all stages so far, at cloud prices.

        Raises:
            PriceError: The ledger has entries of this run in two currencies.
        """
        entries = Ledger(self._workspace).entries(pipeline=self.pipeline, run_id=self.run_id)
        return total(entries)

    def _newest(self) -> dict[str, StageRecord]:
        return self._record.current()

    def _result(self, record: StageRecord) -> StageResult:
        return StageResult(
            name=record.stage,
            state=record.state,
            seconds=record.seconds,
            reused=record.reused,
            verdict=record.verdict,
            summary=record.summary or record.error,
            uri=record.uri,
            manifest=self._manifest(record.uri),
        )

    def _manifest(self, uri: str) -> Manifest | None:
        if not uri:
            return None
        folder = self._workspace.at(uri)
        return read_manifest(folder) if (folder / "manifest.json").exists() else None


def _open(workspace: str | Workspace | None) -> Workspace:
    if isinstance(workspace, Workspace):
        return workspace
    return Workspace(workspace or Settings().workspace)
