"""Every architecture on the same rows: simulated nights whose truth is known, and real ones.

    nice -n 10 python benchmarks/accuracy.py                           # simulator
    nice -n 10 python benchmarks/accuracy.py --kuairand PATH --days 4  # real impressions
    python benchmarks/accuracy.py --rows 5000 --seeds 1 --only dcn_v2,deep

Settings are those of the pipeline for all: no architecture is tuned. Intervals are over users, of
the first seed; `±` is the standard deviation over seeds. `gap` is the log loss above that of the
true probabilities, which no model can pass.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from datetime import date
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from nightbid.attempt import run_stage
from nightbid.config.load import load_pipeline
from nightbid.models.registry import find, names
from nightbid.nightly import NIGHT
from nightbid.runs import RunRecord
from nightbid.workspace import Workspace

PIPELINES = Path(__file__).parents[1] / "include" / "pipelines"
STAGES = ("sample", "featurize", "train", "train_baseline", "evaluate")


def judge(folder: Path, name: str, night: date, overrides: list[str]) -> dict:
    """Run the stages that a candidate's figures need; what is shared is reused."""
    spec = load_pipeline(PIPELINES / f"{name}.yaml", overrides)
    run = RunRecord.start(Workspace(folder / "ws"), spec, night)
    for stage in NIGHT:
        if stage.name in STAGES:
            result = run_stage(stage, spec, run, cache_folder=folder / "cache")
            if stage.name == "train":
                trained = result.manifest.metrics
    return {**result.manifest.metrics, "speed": trained["examples_per_second"]}


def table(folder: Path, name: str, night: date, base: list[str], asked: argparse.Namespace) -> None:
    wanted = asked.only.split(",") if asked.only else names()
    print(f"\n{name}, night of {night}, {' '.join(base)}, seeds {asked.seeds}")
    head = ("architecture", "log loss", "±", "gap", "NE", "AUC", "95 %", "calibration", "samples/s")
    print("{:<24}{:>9}{:>9}{:>9}{:>8}{:>8}{:>20}{:>13}{:>12}".format(*head), flush=True)
    for architecture in wanted:
        if find(architecture).multi_task:
            continue
        found = [
            judge(folder, name, night,
                  [*base, f"model.architecture={architecture}", f"train.seed={seed}"])
            for seed in range(asked.seeds)
        ]  # fmt: skip
        first, losses = found[0], [each["candidate"]["log_loss"] for each in found]
        mean = statistics.mean(losses)
        oracle = (first["oracle"] or {}).get("log_loss")
        bounds = first["intervals"]["auc"]
        print(
            f"{architecture:<24}{mean:>9.5f}{statistics.pstdev(losses):>9.5f}"
            + (f"{mean - oracle:>9.5f}" if oracle else f"{'':>9}")
            + f"{statistics.mean(e['candidate']['normalized_entropy'] for e in found):>8.4f}"
            f"{statistics.mean(e['candidate']['auc'] for e in found):>8.4f}"
            f"{'[{low:.4f}, {high:.4f}]'.format(**bounds):>20}"
            f"{first['candidate']['calibration']:>13.3f}"
            f"{statistics.mean(each['speed'] for each in found):>12,.0f}",
            flush=True,
        )
    if first["oracle"]:
        print(f"{'the truth':<24}{oracle:>9.5f}{'':>26}{first['oracle']['auc']:>8.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="a day, of the simulator")
    parser.add_argument("--days", type=int, default=5, help="of training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="architectures, separated by commas")
    parser.add_argument("--kuairand", default="", help="folder of the KuaiRand-Pure files")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        days = f"window.train_days={asked.days}"
        if asked.kuairand:
            base = [f"source.folder={asked.kuairand}", days, "window.evaluate_days=1"]
            table(folder, "kuairand_ctr", date(2022, 5, 8), base, asked)
        else:
            base = [f"source.rows_per_day={asked.rows}", days]
            table(folder, "ctr", date(2026, 1, 12), base, asked)


if __name__ == "__main__":
    main()
