"""How often a clean night's refitted model does not serve, and which check says so.

    nice python benchmarks/refit_fallbacks.py --rows 500 --nights 40               # simulated nights
    nice python benchmarks/refit_fallbacks.py --rows 500 --nights 40 --kuairand ../shared/data/kuairand_std_14d
    nice python benchmarks/refit_fallbacks.py --rows 2000 --architecture gradient_boosted_trees

Nights are trained and refitted with `train.refit: true`; nothing judges them before. Of each, the
figures that compare the two models say what an automatic refit would do (serve the judged model),
and what `true` would (stop). With --kuairand, so many rows of every day are drawn with replacement, and
drawn again after every nine nights.
"""  # noqa: E501

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from gates import bootstrapped
from gates_nights import PIPELINES
from nightbid.config.gates import Gates
from nightbid.config.load import load_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import DataError
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.serving.refitted import CHECKS, LEAST, figures, why_judged
from nightbid.storage.workspace import Workspace

STAGES = [each for each in NIGHT if each.name in ("sample", "featurize", "train", "export")]


def nights(asked: argparse.Namespace, work: Path) -> Iterator[tuple[PipelineSpec, Path, date]]:
    """Yield the spec, the folder and the day of clean nights."""
    model = [f"model.architecture={asked.architecture}", "train.refit=true"]
    if not asked.kuairand:
        settings = [*model, f"source.rows_per_day={asked.rows}", f"source.seed={asked.seed}"]
        spec = load_pipeline(PIPELINES / "ctr.yaml", settings)
        for at in range(asked.nights):
            yield spec, work / "simulated", date(2026, 1, 8) + timedelta(at)
        return
    repeat = 0
    while True:
        place = work / f"repeat{repeat}"
        days = bootstrapped(asked.kuairand, asked.rows, asked.seed + repeat, place / "logs")
        # Steps by the rows: the YAML's four epochs of 1,024 rows are for 80,000 rows a day.
        steps = ["train.batch_size=null", "train.epochs=null"]
        source = [
            *steps,
            f"source={{kind: parquet, folder: {place / 'logs'}}}",
            "window.train_days=4",
        ]
        spec = load_pipeline(
            PIPELINES / "kuairand_ctr.yaml", [*model, *source, "window.evaluate_days=1"]
        )
        for night in days[5:]:
            yield spec, place, night
        shutil.rmtree(place)
        repeat += 1


def main() -> None:
    """Run the nights and print what their refits come to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000, help="rows a day")
    parser.add_argument("--nights", type=int, default=40)
    parser.add_argument("--architecture", default="dcn_v2")
    parser.add_argument("--kuairand", default="", help="folder of KuaiRand: its days, drawn again")
    parser.add_argument("--seed", type=int, default=7007)
    asked = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    falls: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    seen: dict[str, list[float]] = {name: [] for name in CHECKS}
    gates, done, gains = Gates(), 0, []
    with tempfile.TemporaryDirectory() as folder:
        for spec, place, night in nights(asked, Path(folder)):
            done += 1
            try:
                run = RunRecord.start(Workspace(str(place / "ws")), spec, night)
                for stage in STAGES:
                    result = run_stage(stage, spec, run, cache_folder=Path(folder) / "cache")
            except DataError as error:
                falls["cannot compare"] += 1
                stops["cannot compare"] += 1
                print(f"  {night}: {error}", flush=True)
                continue
            found = result.manifest.metrics["refit"]
            each = {one.statistic: one.value for one in figures(found) if one.value is not None}
            for name, value in each.items():
                seen[name].append(value)
            gains.append(found["difference"]["value"])
            why = why_judged(found, gates, night)
            if min(found["held_users"], found["held_positives"]) < LEAST:
                falls["cannot compare"] += 1
            elif why:
                falls[next(name for name in CHECKS if name in why)] += 1
            if why:
                stops[next(name for name in CHECKS if name in why)] += 1
            shown = ", ".join(f"{name[6:]} {value:.3f}" for name, value in each.items())
            print(
                f"  {night}: {shown}; {found['held_rows']} rows of {found['held_users']} users,"
                f" {found['held_positives']} positives; {gains[-1]:+.4f}"
                + (f"  -> {why}" if why else ""),
                flush=True,
            )
            if done == asked.nights:
                break
    name = "KuaiRand" if asked.kuairand else "simulated"
    print(f"\n{name}, {asked.rows:,} rows a day, {asked.architecture}, {done} nights")
    print(f"  the judged model serves: {sum(falls.values())} {dict(falls)}")
    print(f"  `refit: true` stops:     {sum(stops.values())} {dict(stops)}")
    for check, values in seen.items():
        if values:
            shown = " ".join(f"{at:.3f}" for at in np.quantile(values, [0, 0.1, 0.5, 0.9, 1]))
            print(f"  {check:18} least, 10 %, median, 90 %, most: {shown}")
    print(f"  log loss, refitted less judged: mean {np.mean(gains):+.5f}")


if __name__ == "__main__":
    main()
