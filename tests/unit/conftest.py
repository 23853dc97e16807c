"""A recorded night with real record files, for reports, comparisons and tracking."""

from __future__ import annotations

import datetime as dt
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.ledger import record_stage_usage
from nightbid.night.attempts import StageRecord
from nightbid.night.manifest import FileEntry, Manifest, RowCounts, Usage
from nightbid.night.record import RunRecord
from nightbid.night.stages import STAGES
from nightbid.storage.workspace import Workspace, file_digest

STARTED = dt.datetime(2026, 1, 21, 2, tzinfo=dt.UTC)


def figures(auc: float = 0.7312, entropy: float = 0.8765) -> dict:
    return {"auc": auc, "pr_auc": 0.2345, "log_loss": 0.3131, "normalized_entropy": entropy,
            "calibration": 1.021, "ece": 0.0042, "gauc": 0.6543, "ndcg": 0.5432}  # fmt: skip


def evaluation(digest: str = "rows-1") -> dict:
    apart = {"value": -0.0123, "low": -0.0201, "high": -0.0045}
    return {
        "verdict": "better", "reference": "baseline", "rows": 12_345, "positives": 1234,
        "users": 987, "rows_digest": digest, "candidate": figures(), "champion": None,
        "baseline": figures(0.7001, 0.8888), "constant": figures(0.5, 1.0),
        "oracle": {"log_loss": 0.3001, "normalized_entropy": 0.84, "auc": 0.76},
        "reachable": {
            "losses": {"truth": 0.3002, "position": 0.3022, "hidden": 0.3052, "constant": 0.3352,
                       "candidate": 0.3132, "baseline": 0.3172},
            "parts": {"noise": 0.3002, "position": 0.002, "hidden": 0.003, "model": 0.008,
                      "share": 0.7333},
            "shares": {"baseline": 0.6},
        },
        "difference": {"auc": {"value": 0.0311, "low": 0.0215, "high": 0.0407},
                       "normalized_entropy": apart, "log_loss": apart},
        "intervals": {"auc": {"low": 0.7202, "high": 0.7422}},
        "model_intervals": {"candidate": {"auc": {"low": 0.7202, "high": 0.7422}},
                            "baseline": {"auc": {"low": 0.69, "high": 0.71}}},
        "curves": {"candidate": [{"predicted": 0.05, "observed": 0.06, "weight": 6000.0},
                                 {"predicted": 0.2, "observed": 0.19, "weight": 6345.0}]},
        "slices": [{"column": "platform", "value": "ios", "rows": 4321, "candidate": figures(),
                    "reference": figures(), "difference": dict.fromkeys(
                        ("auc", "normalized_entropy", "log_loss"), apart)}],
    }  # fmt: skip


def training(architecture: str) -> dict:
    return {
        "architecture": architecture, "parameters": 123_456, "examples_per_second": 654_321.0,
        "epochs": 2, "best_epoch": 2, "validation": {"auc": 0.7299, "log_loss": 0.3152},
        "history": [
            {"epoch": e, "loss": 0.4 / e, "validation_log_loss": 0.33 / e, "validation_auc": 0.7,
             "seconds": 1.5} for e in (1, 2)
        ],
    }  # fmt: skip


def gate(name: str = "rows", verdict: str = "pass") -> dict:
    return {"checks": [{"name": name, "verdict": verdict, "observed": "12,345",
                        "expected": "at least 1,000", "detail": "the newest day"}]}  # fmt: skip


def night_metrics() -> dict[str, dict]:
    return {
        "sample": {"label_rate": 0.1, "days": {}},
        "gate_raw": gate("null_share:platform", "warn"),
        "featurize": {"inputs": 9, "oov_rate": {"platform": 0.01}, "rows_per_second": 5e4},
        "gate_features": gate("psi:platform"),
        "train": training("dcn_v2"),
        "train_baseline": training("logistic_regression"),
        "evaluate": evaluation(),
        "gate_model": gate("calibration"),
        "replay": {"replayed": False},
        "gate_value": gate("surplus"),
        "export": {"parity_max_difference": 6e-8, "skew_rows": 1000, "skew_mismatches": 0,
                   "bytes": 10_000},
        "load_test": {"engine": "onnxruntime", "candidates": 100, "requests": 500,
                      "latency_ms": {"p50": 1.71, "p95": 2.22, "p99": 3.33},
                      "requests_per_second_per_core": 432.1,
                      "curve": [{"offered_per_second": 100.0 * at, "answered_per_second": 99.0 * at,
                                 "p50_ms": 1.7, "p95_ms": 2.5 * at, "p99_ms": 3.3 * at}
                                for at in (1, 2, 4)]},
        "gate_serving": gate("p99_ms"),
        "gate_cost": {**gate("run_share"), "total_usd": 0.12, "by_stage": {"train": 0.1},
                      "budget_usd": 5.0},
        "promote": {},
    }  # fmt: skip


@pytest.fixture
def recorded_run(tmp_path, monkeypatch):
    """Write a night's records into a workspace, and open the run."""
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "cache"))

    def record(
        run_id: str = "ctr-2026-01-20",
        *,
        until: str = "promote",
        error: str = "",
        metrics: dict[str, dict] | None = None,
        scores: dict[str, np.ndarray] | None = None,
        overrides: tuple[str, ...] = (),
        **blocks,
    ) -> RunRecord:
        spec = PipelineSpec.model_validate(
            {"pipeline": "ctr", "features": {"platform": {"column": "platform"}},
             "budget": {"run_usd": 5, "stage_usd": {"train": 1}}, **blocks}
        )  # fmt: skip
        workspace = Workspace(str(tmp_path / "workspace"))
        run = RunRecord.start(
            workspace, spec, dt.date(2026, 1, 20), run_id=run_id, overrides=overrides
        )
        stage_metrics = night_metrics() | (metrics or {})
        begun = STARTED + dt.timedelta(hours=len(run.records()))
        # The night replays no bids unless the test passes replay metrics.
        replays = "replay" in (metrics or {})
        stages = [name for name in STAGES if replays or name not in ("replay", "gate_value")]
        for at, stage in enumerate(stages[: stages.index(until) + 1]):
            started = begun + dt.timedelta(minutes=at)
            usage = Usage(cpu_seconds=100, gb_seconds=50, wall_seconds=60)
            kwargs = {"stage": stage, "started": started, "seconds": 60.0, "usage": usage}
            broken = bool(error) and stage == until
            record_stage_usage(
                workspace, pipeline="ctr", run_id=run_id, stage=stage, attempt=1, usage=usage,
                started=started, state="failed" if broken else "done",
            )  # fmt: skip
            if broken:
                run.record(StageRecord(state="failed", error=error, **kwargs))
                break
            key = hashlib.sha256(f"{run_id} {stage}".encode()).hexdigest()[:32]
            folder = workspace.stage_folder("ctr", stage, key)
            folder.mkdir(parents=True, exist_ok=True)
            if stage == "evaluate":
                (folder / "evaluation.json").write_text(json.dumps(stage_metrics[stage]))
                if scores:
                    (folder / "scores").mkdir()
                    table = pa.table({name: pa.array(column) for name, column in scores.items()})
                    pq.write_table(table, folder / "scores" / "part-00000.parquet")
            files = tuple(
                FileEntry(
                    path=path.relative_to(folder).as_posix(),
                    size=path.stat().st_size,
                    digest=file_digest(path),
                )
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            )
            checks = stage_metrics[stage].get("checks", [])
            verdict = max(
                (check["verdict"] for check in checks),
                key=["pass", "warn", "stop"].index,
                default=None,
            )
            manifest = Manifest(
                pipeline="ctr", run_id=run_id, stage=stage, night="2026-01-20", key=key,
                digest=key, inputs={}, spec_digest="5" * 32, code_digest="c" * 32,
                versions={"numpy": "2.4.1"}, seed=0,
                rows=RowCounts(read=20_000, written=19_900, quarantined=77, dropped=23),
                usage=usage, metrics=stage_metrics[stage], verdict=verdict,
                summary=f"what {stage} says", files=files, created=started,
            )  # fmt: skip
            (folder / "manifest.json").write_text(manifest.model_dump_json())
            run.record(
                StageRecord(
                    state="stopped" if verdict == "stop" else "done",
                    uri=workspace.uri(folder),
                    verdict=verdict,
                    summary=manifest.summary,
                    **kwargs,
                )
            )
            if verdict == "stop":
                break
        return run

    return record
