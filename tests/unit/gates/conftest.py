"""Runs one gate as a stage, over inputs that a test builds."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from types import ModuleType

import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.night.manifest import Manifest, RowCounts
from nightbid.night.task import Outcome, StageInput
from tasks import task_of
from upath import UPath

NEWEST = date(2026, 1, 20)


def _manifest(stage: str, metrics, rows: RowCounts | None = None) -> Manifest:
    return Manifest(
        pipeline="t", run_id="r", stage=stage, night=str(NEWEST), key="", digest="", inputs={},
        spec_digest="", code_digest="", versions={}, seed=0, metrics=metrics,
        rows=rows or RowCounts(), created=datetime(2026, 1, 21, tzinfo=UTC),
    )  # fmt: skip


@pytest.fixture
def gate(tmp_path):
    """Run one gate over inputs of given metrics."""

    def run(
        module: ModuleType, inputs: dict[str, dict], rows: RowCounts | None = None, **blocks
    ) -> Outcome:
        spec = PipelineSpec.model_validate(
            {"pipeline": "t", "features": {"platform": {"column": "platform"}}, **blocks}
        )
        (tmp_path / "out").mkdir()
        outcome: Outcome = module.measure(
            task_of(
                spec,
                NEWEST,
                tmp_path / "out",
                workspace=tmp_path,
                cache=tmp_path,
                inputs={
                    name: StageInput(_manifest(name, metrics, rows), UPath(tmp_path / name))
                    for name, metrics in inputs.items()
                },
            )
        )
        written = json.loads((tmp_path / "out" / "gate.json").read_text())
        assert written["verdict"] == outcome.verdict
        assert outcome.summary.split(" (")[0][:20] in (tmp_path / "out/index.html").read_text()
        return outcome

    return run
