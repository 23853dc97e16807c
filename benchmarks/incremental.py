"""Full, warm and incremental nights: accuracy on the newest day, and cost.

    nice python benchmarks/incremental.py                            # twenty simulated nights
    nice python benchmarks/incremental.py --rows 8000 --nights 20 --poison 8
    nice python benchmarks/incremental.py --kuairand ../shared/data/kuairand_std_14d --nights 8

Every mode has its own workspace and runs the same nights; the first night is the same in all.
Interrupted runs resume. Log loss is compared with that of full nights, paired over users.
`--poison N` triples the clicks of the newest training day of night N of incremental nights, and
measures the loss and how much of it `incremental undo` recovers one night later.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from environments import CACHE
from nightbid.config.load import load_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.evaluation import metrics
from nightbid.evaluation.scores import ScoreTable
from nightbid.models.predict import load_model
from nightbid.night.champion import ChampionPointer
from nightbid.night.incremental import DayDecision, decide, undone
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.schema import LABEL, USER, WEIGHT, split_files
from nightbid.storage.workspace import Workspace
from nightbid.training.refit import compare

PIPELINES = Path(__file__).parents[1] / "include" / "pipelines"
STAGES = ("sample", "featurize", "train")


class Nights:
    """The nights of one mode."""

    def __init__(self, folder: Path, spec: PipelineSpec) -> None:
        self.folder, self.spec = folder, spec
        self.workspace = Workspace(folder / "ws")

    def run(self, day: date) -> dict[str, Any]:
        run = RunRecord.start(self.workspace, self.spec, day)
        results, spent = {}, {}
        for stage in NIGHT:
            if stage.name in (*STAGES, *(("export",) if self.spec.train.mode == "warm" else ())):
                result = run_stage(stage, self.spec, run, cache_folder=self.folder / "cache")
                results[stage.name] = result
                spent[stage.name] = result.manifest.usage.cpu_seconds
        if "export" in results:
            bundle = results["export"]
            ChampionPointer(self.workspace, self.spec.pipeline).promote(
                run_id=run.run_id, night=run.date, bundle_uri=bundle.uri,
                bundle_digest=bundle.manifest.digest, reason="benchmark",
            )  # fmt: skip
        folders = {name: self.folder / "ws" / result.uri for name, result in results.items()}
        rows = pq.read_table(split_files(folders["featurize"], "evaluate"), partitioning=None)
        return {
            "p": load_model(folders["train"] / "model").predict(rows),
            "rows": rows.select([LABEL, WEIGHT, USER]),
            "cpu": spent,
            "said": results["train"].manifest.metrics.get("start", ""),
        }


def figures(parts: list[dict[str, Any]]) -> dict[str, float]:
    """Return log loss, AUC and calibration over all nights."""
    rows = pa.concat_tables([part["rows"] for part in parts])
    table = ScoreTable.of(
        rows[LABEL].to_numpy(), np.concatenate([part["p"] for part in parts]),
        rows[WEIGHT].to_numpy(),
    )  # fmt: skip
    return {
        "loss": metrics.log_loss(table),
        "auc": metrics.auc(table),
        "calibration": metrics.calibration(table),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kuairand")
    parser.add_argument("--modes", default="full,warm,incremental")
    parser.add_argument("--set", action="append", default=[], help="of all modes")
    parser.add_argument("--poison", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=CACHE / "incremental")
    options = parser.parse_args()
    name, first = (
        ("kuairand_ctr", date(2022, 5, 1)) if options.kuairand else ("ctr", date(2026, 1, 12))
    )
    source = (
        [f"source.folder={options.kuairand}", "window.train_days=4", "window.evaluate_days=1"]
        if options.kuairand else [f"source.rows_per_day={options.rows}"]
    )  # fmt: skip
    parts: dict[str, list[dict[str, Any]]] = {}
    for mode in options.modes.split(","):
        spec = load_pipeline(
            PIPELINES / f"{name}.yaml", [*source, *options.set, f"train.mode={mode}"]
        )
        nights = Nights(options.folder / name / mode, spec)
        parts[mode] = []
        for number in range(options.nights):
            parts[mode].append(nights.run(first + timedelta(number)))
            last = parts[mode][-1]
            print(f"  {mode:11} {number + 1:2}: train {last['cpu']['train']:5.1f} CPU s,"
                  f" {last['said']}", flush=True)  # fmt: skip
    report(name, parts)
    if options.poison:
        poisoned(options, name, first, source)


def report(name: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Print a line per mode, without the first night, which all modes share."""
    reference = found.get("full")
    print(f"\n{name}: nights after the first")
    for mode, parts in found.items():
        parts = parts[1:]
        totals = figures(parts)
        cpu = {stage: sum(p["cpu"][stage] for p in parts) / len(parts) for stage in STAGES}
        line = (
            f"  {mode:11} log loss {totals['loss']:.5f}, AUC {totals['auc']:.4f}, calibration"
            f" {totals['calibration']:.3f}; CPU s per night: train {cpu['train']:.1f},"
            f" sample and featurize {cpu['sample'] + cpu['featurize']:.1f}"
        )
        if reference is not None and mode != "full":
            rows = pa.concat_tables([part["rows"] for part in parts])
            difference = compare(
                np.concatenate([part["p"] for part in reference[1:]]),
                np.concatenate([part["p"] for part in parts]),
                labels=rows[LABEL].to_numpy().astype(float),
                weights=rows[WEIGHT].to_numpy().astype(float),
                users=rows[USER].to_numpy().astype(np.int64),
            )["difference"]
            line += (
                f"; log loss less full {difference['value']:+.5f}"
                f" [{difference['low']:+.5f}, {difference['high']:+.5f}]"
            )
        print(line)


def poisoned(asked: argparse.Namespace, name: str, first: date, source: list[str]) -> None:
    """Triple the clicks of a day, learn it without the drift check, and undo it a night later."""
    bad = first + timedelta(asked.poison - 2)  # the newest training day of that night
    changes = ["train.mode=incremental", "train.drift_ne=9", "train.full_every=99"]
    fault = f"source.faults=['label_rate@{bad}:3']"
    losses = {}
    for way in ("clean", "poisoned", "undone"):
        added = [] if way == "clean" else [fault]
        spec = load_pipeline(PIPELINES / f"{name}.yaml", [*source, *asked.set, *changes, *added])
        nights = Nights(asked.folder / name / way, spec)
        losses[way] = []
        for number in range(asked.poison + 4):
            is_after = way == "undone" and number == asked.poison + 1
            if is_after and bad not in undone(nights.workspace, spec.pipeline):
                decision = DayDecision(change="undo", day=bad, reason="test", at=datetime.now(UTC))
                decide(nights.workspace, spec.pipeline, decision)
            part = nights.run(first + timedelta(number))
            if number >= asked.poison:
                totals = figures([part])
                losses[way].append(f"{totals['loss']:.5f} ({totals['calibration']:.2f})")
            print(f"  {way:9} {number + 1:2}: {part['said']}", flush=True)
    print(f"\n{name}: log loss (calibration) by night, from the one that learns {bad} on")
    for way, texts in losses.items():
        print(f"  {way:9} " + "  ".join(texts))


if __name__ == "__main__":
    main()
