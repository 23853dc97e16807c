"""Milliseconds per page of a workspace with many runs: cold, after a restart, and warm.

    python benchmarks/pages.py               # or: --runs 1000

The workspace holds copies of one synthetic night: 13 stages with records, manifests and ledger
entries as a night writes them, and its summary. `cold` is a process with an empty cache,
`restarted` is a new process that finds the cached summaries, and `warm` is the second request.
`without` is cold, with nights that have no summary. The figures exclude Airflow's own share (login,
about 5 ms).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nightbid.config.costs import STAGES
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.ledger import record_stage_usage
from nightbid.night.attempts import StageRecord
from nightbid.night.manifest import Manifest, RowCounts, Usage
from nightbid.night.record import RunRecord
from nightbid.report import records
from nightbid.report.summaries import Summaries
from nightbid.storage.workspace import Workspace

FIRST = dt.date(2023, 1, 1)
FIGURES = {"auc": 0.73, "pr_auc": 0.23, "log_loss": 0.31, "normalized_entropy": 0.88,
           "calibration": 1.02, "ece": 0.004, "gauc": 0.65, "ndcg": 0.54}  # fmt: skip
CHANGE = {"value": -0.0123, "low": -0.0201, "high": -0.0045}
METRICS = {
    "evaluate": {
        "verdict": "better", "reference": "champion", "rows": 12_345, "positives": 1234,
        "candidate": FIGURES, "baseline": FIGURES,
        "difference": {"auc": CHANGE, "normalized_entropy": CHANGE, "log_loss": CHANGE},
        "slices": [{"column": "platform", "value": str(at), "rows": 9, "candidate": FIGURES,
                    "difference": {"auc": CHANGE, "normalized_entropy": CHANGE}}
                   for at in range(100)],
    },
    "promote": {"decision": "promoted"},
}  # fmt: skip


def record(workspace: Workspace, night: int) -> None:
    spec = PipelineSpec.model_validate(
        {"pipeline": "ctr", "features": {f"f{at}": {"column": "platform"} for at in range(20)},
         "budget": {"run_usd": 5}}
    )  # fmt: skip
    date = FIRST + dt.timedelta(days=night)
    run = RunRecord.start(workspace, spec, date)
    for at, stage in enumerate(STAGES):
        started = dt.datetime.combine(date, dt.time(2, at), dt.UTC)
        usage = Usage(cpu_seconds=100 + night, gb_seconds=50, wall_seconds=60)
        key = f"{night:04x}{at:028x}"
        folder = workspace.stage_folder("ctr", stage, key)
        folder.mkdir(parents=True)
        verdict = "pass" if stage.startswith("gate_") else None
        manifest = Manifest(
            pipeline="ctr", run_id=run.run_id, stage=stage, night=str(date), key=key, digest=key,
            inputs={}, spec_digest="5" * 32, code_digest="c" * 32, versions={"numpy": "2.4"},
            seed=0, rows=RowCounts(read=20_000, written=20_000), usage=usage, verdict=verdict,
            metrics=METRICS.get(stage, {"checks": []}), summary=stage, created=started,
        )  # fmt: skip
        (folder / "manifest.json").write_text(manifest.model_dump_json())
        record_stage_usage(
            workspace, pipeline="ctr", run_id=run.run_id, stage=stage, attempt=1, usage=usage,
            started=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), state="done",
        )  # fmt: skip
        run.record(
            StageRecord(stage=stage, state="done", uri=workspace.uri(folder), started=started,
                        seconds=60, usage=usage, verdict=verdict, summary=stage)
        )  # fmt: skip


def pages(root: Path, cache: Path) -> None:
    """Build each page twice in this process, and print the milliseconds as JSON."""
    from nightbid.report import pages as documents
    from nightbid.report.cost_trend import TREND
    from nightbid.report.index_pages import PAGE
    from nightbid.report.links import Links

    workspace, links = Workspace(str(root)), Links()
    summaries = Summaries(workspace, cache)

    def nights() -> str:
        runs = summaries.of("ctr")
        return documents.nights_document(
            runs[:-PAGE:-1], len(runs), page=1, pipeline="ctr", trends={"ctr": runs[-TREND:]},
            links=links, pipelines=["ctr"],
        )  # fmt: skip

    def costs() -> str:
        return documents.costs_document(summaries.of("ctr"), links=links, pipelines=["ctr"])

    def one() -> str:
        last = records.run(workspace, "ctr", records.run_ids(workspace, "ctr")[-1])
        assert last is not None
        return documents.run_document(last, nights=summaries.of("ctr"))

    timings: dict[str, list[float]] = {}
    for name, make in (("nights", nights), ("costs", costs), ("one run", one)):
        for _ in range(2):
            began = time.perf_counter()
            make()
            timings.setdefault(name, []).append((time.perf_counter() - began) * 1e3)
    print(json.dumps(timings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pages", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pages:
        pages(*options.pages)
        return
    folder = Path(tempfile.mkdtemp(prefix="nightbid-pages-"))
    try:
        workspace = Workspace(str(folder / "workspace"))
        for night in range(options.runs):
            record(workspace, night)
        time.sleep(1.5)  # files written within the last second are read again each time
        command = [sys.executable, __file__, "--pages", str(workspace.root), str(folder / "cache")]

        def made() -> dict[str, list[float]]:
            process = subprocess.run(command, check=True, capture_output=True, text=True)
            timings: dict[str, list[float]] = json.loads(process.stdout)
            return timings

        without = made()
        shutil.rmtree(folder / "cache")
        summaries = Summaries(workspace, folder / "cache")
        for name in records.run_ids(workspace, "ctr"):
            summaries.keep(RunRecord.load(workspace, "ctr", name))
        cold, restarted = made(), made()
        print(f"{options.runs} runs, {os.cpu_count()} cores, milliseconds")
        print(f"{'page':<10}{'without':>10}{'cold':>10}{'restarted':>12}{'warm':>8}")
        for name, (first, _) in cold.items():
            then, warm = restarted[name]
            print(f"{name:<10}{without[name][0]:>10.0f}{first:>10.0f}{then:>12.0f}{warm:>8.0f}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
