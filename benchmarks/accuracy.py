"""Accuracy of every architecture on the same rows, from simulated nights and from real ones.

    nice -n 10 python benchmarks/accuracy.py                          # simulated clicks
    nice -n 10 python benchmarks/accuracy.py conversions              # after a click, entire space
    nice -n 10 python benchmarks/accuracy.py kuairand --source PATH   # real impressions
    python benchmarks/accuracy.py --rows 5000 --seeds 1 --only dcn_v2,deep
    python benchmarks/accuracy.py --set features.hour_of_day.training_only=true

Every architecture uses the settings of the pipeline; none is tuned. Figures are means over seeds of
the initial weights and the order of rows; `±` is their standard deviation. Intervals are over
users, for the first seed. `less LR` is the log loss minus that of logistic regression, paired on
the same rows. `gap` is the log loss above that of the true probabilities, which a model can beat
only by chance. Trained models stay below --folder, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from environments import CACHE
from nightbid.config.load import load_pipeline
from nightbid.models.registry import find, names
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

PIPELINES = Path(__file__).parents[1] / "include" / "pipelines"
STAGES = ("sample", "featurize", "train", "train_baseline", "evaluate")
BASELINE = "logistic_regression"
SIMULATED, REAL = date(2026, 1, 12), date(2022, 5, 8)


def judge(folder: Path, name: str, night: date, overrides: list[str]) -> dict[str, Any]:
    """Run the stages that a candidate's figures need; reuse shared and finished outputs."""
    spec = load_pipeline(PIPELINES / f"{name}.yaml", overrides)
    run = RunRecord.start(Workspace(folder / "ws"), spec, night)
    for stage in NIGHT:
        if stage.name in STAGES:
            result = run_stage(stage, spec, run, cache_folder=folder / "cache")
    if keras := sys.modules.get("keras"):
        keras.backend.clear_session()
    gc.collect()
    return dict(result.manifest.metrics)


def table(folder: Path, name: str, night: date, base: list[str], asked: argparse.Namespace) -> None:
    architectures = asked.only.split(",") if asked.only else names()
    print(f"\n{name}, night of {night}, {' '.join(base)}, {asked.seeds} seeds", flush=True)
    first: dict[str, Any] = {}
    for architecture in architectures:
        if find(architecture).multi_task and name != "ctcvr":
            continue
        results = []
        for seed in range(asked.seeds):
            metrics = judge(
                folder, name, night, [*base, f"model.architecture={architecture}",
                                      f"baseline.architecture={BASELINE}", f"train.seed={seed}"],
            )  # fmt: skip
            results.append(metrics)
            sys.stderr.write(
                f"  {architecture}, seed {seed}: {metrics['candidate']['log_loss']:.5f}\n"
            )
        if not first:
            heading(results[0])
        first = results[0]
        tell(architecture, results)
    if first.get("oracle"):
        oracle = first["oracle"]
        print(f"{'the truth':<24}{oracle['log_loss']:>9.5f}{'':>9}{0:>9.5f}"
              f"{oracle['normalized_entropy']:>8.4f}{oracle['auc']:>8.4f}", flush=True)  # fmt: skip


def heading(judged: dict[str, Any]) -> None:
    print(f"{judged['rows']:,} rows judged, {judged['positives']:,} positives,"
          f" {judged['users']:,} users")  # fmt: skip
    head = ("architecture", "log loss", "±", "gap", "NE", "AUC", "AUC, 95 %", "GAUC",
            "less LR, 95 %", "calibr.")  # fmt: skip
    print("{:<24}{:>9}{:>9}{:>9}{:>8}{:>8}{:>18}{:>8}{:>31}{:>8}".format(*head), flush=True)


def tell(architecture: str, found: list[dict[str, Any]]) -> None:
    first = found[0]

    def mean(figure: str) -> float:
        return statistics.mean(metrics["candidate"][figure] for metrics in found)

    losses = [metrics["candidate"]["log_loss"] for metrics in found]
    gap = f"{mean('log_loss') - first['oracle']['log_loss']:.5f}" if first["oracle"] else ""
    paired = first["difference"]["log_loss"]
    print(
        f"{architecture:<24}{mean('log_loss'):>9.5f}{statistics.pstdev(losses):>9.5f}{gap:>9}"
        f"{mean('normalized_entropy'):>8.4f}{mean('auc'):>8.4f}"
        f"{'[{low:.4f}, {high:.4f}]'.format(**first['intervals']['auc']):>18}{mean('gauc'):>8.4f}"
        f"{'{value:+.5f} [{low:+.5f}, {high:+.5f}]'.format(**paired):>31}"
        f"{mean('calibration'):>8.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", default="clicks",
                        choices=["clicks", "conversions", "kuairand"])  # fmt: skip
    parser.add_argument("--rows", type=int, default=20_000, help="a day, of the simulator")
    parser.add_argument("--days", type=int, default=5, help="of training")
    parser.add_argument("--epochs", type=int, help="at most; default: the pipeline's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="architectures, separated by commas")
    parser.add_argument("--source", default="", help="folder of the KuaiRand-Pure files")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="of the pipeline; may be given again")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=CACHE / "accuracy", help="what is kept")
    options = parser.parse_args()
    base = [f"window.train_days={options.days}", *options.set]
    if options.epochs:
        base.append(f"train.epochs={options.epochs}")
    if options.data == "kuairand":
        base.append(f"source.folder={options.source}")
        table(options.folder, "kuairand_ctr", REAL, base, options)
    else:
        name = "ctcvr" if options.data == "conversions" else "ctr"
        base.append(f"source.rows_per_day={options.rows}")
        table(options.folder, name, SIMULATED, base, options)


if __name__ == "__main__":
    main()
