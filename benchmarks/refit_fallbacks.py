"""How often the refitted model of a clean night is not served, and which check rejects it.

    nice python benchmarks/refit_fallbacks.py --rows 500 --nights 40               # simulated nights
    nice python benchmarks/refit_fallbacks.py --rows 500 --nights 40 --kuairand ../shared/data/kuairand_std_14d
    nice python benchmarks/refit_fallbacks.py --rows 2000 --architecture gradient_boosted_trees

Nights are trained and refitted with `train.refit: true`, without gates. For each night, the figures
that compare the two models show whether an automatic refit would serve the judged model and whether
`true` would stop. With --kuairand, --rows rows of every day are drawn with replacement, and drawn
again after every nine nights.
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

STAGES = [stage for stage in NIGHT if stage.name in ("sample", "featurize", "train", "export")]


def nights(asked: argparse.Namespace, work: Path) -> Iterator[tuple[PipelineSpec, Path, date]]:
    """Yield the spec, the folder and the day of clean nights."""
    model = [f"model.architecture={asked.architecture}", "train.refit=true"]
    if not asked.kuairand:
        settings = [*model, f"source.rows_per_day={asked.rows}", f"source.seed={asked.seed}"]
        spec = load_pipeline(PIPELINES / "ctr.yaml", settings)
        for number in range(asked.nights):
            yield spec, work / "simulated", date(2026, 1, 8) + timedelta(number)
        return
    repeat = 0
    while True:
        folder = work / f"repeat{repeat}"
        days = bootstrapped(asked.kuairand, asked.rows, asked.seed + repeat, folder / "logs")
        # Derive the steps from the rows; the YAML's settings suit 80,000 rows a day.
        steps = ["train.batch_size=null", "train.epochs=null"]
        source = [
            *steps,
            f"source={{kind: parquet, folder: {folder / 'logs'}}}",
            "window.train_days=4",
        ]
        spec = load_pipeline(
            PIPELINES / "kuairand_ctr.yaml", [*model, *source, "window.evaluate_days=1"]
        )
        for night in days[5:]:
            yield spec, folder, night
        shutil.rmtree(folder)
        repeat += 1


def main() -> None:
    """Run the nights and print the outcomes of their refits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000, help="rows a day")
    parser.add_argument("--nights", type=int, default=40)
    parser.add_argument("--architecture", default="dcn_v2")
    parser.add_argument("--kuairand", default="", help="folder of KuaiRand: its days, drawn again")
    parser.add_argument("--seed", type=int, default=7007)
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    fallbacks: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    values_by_check: dict[str, list[float]] = {name: [] for name in CHECKS}
    gates, night_count, gains = Gates(), 0, []
    with tempfile.TemporaryDirectory() as folder:
        for spec, place, night in nights(options, Path(folder)):
            night_count += 1
            try:
                run = RunRecord.start(Workspace(str(place / "ws")), spec, night)
                for stage in STAGES:
                    result = run_stage(stage, spec, run, cache_folder=Path(folder) / "cache")
            except DataError as error:
                fallbacks["cannot compare"] += 1
                stops["cannot compare"] += 1
                print(f"  {night}: {error}", flush=True)
                continue
            refit = result.manifest.metrics["refit"]
            statistics = {
                figure.statistic: figure.value
                for figure in figures(refit)
                if figure.value is not None
            }
            for name, value in statistics.items():
                values_by_check[name].append(value)
            gains.append(refit["difference"]["value"])
            why = why_judged(refit, gates, night)
            if min(refit["held_users"], refit["held_positives"]) < LEAST:
                fallbacks["cannot compare"] += 1
            elif why:
                fallbacks[next(name for name in CHECKS if name in why)] += 1
            if why:
                stops[next(name for name in CHECKS if name in why)] += 1
            shown = ", ".join(f"{name[6:]} {value:.3f}" for name, value in statistics.items())
            print(
                f"  {night}: {shown}; {refit['held_rows']} rows of {refit['held_users']} users,"
                f" {refit['held_positives']} positives; {gains[-1]:+.4f}"
                + (f"  -> {why}" if why else ""),
                flush=True,
            )
            if night_count == options.nights:
                break
    name = "KuaiRand" if options.kuairand else "simulated"
    print(f"\n{name}, {options.rows:,} rows a day, {options.architecture}, {night_count} nights")
    print(f"  the judged model serves: {sum(fallbacks.values())} {dict(fallbacks)}")
    print(f"  `refit: true` stops:     {sum(stops.values())} {dict(stops)}")
    for check, values in values_by_check.items():
        if values:
            shown = " ".join(
                f"{quantile:.3f}" for quantile in np.quantile(values, [0, 0.1, 0.5, 0.9, 1])
            )
            print(f"  {check:18} least, 10 %, median, 90 %, most: {shown}")
    print(f"  log loss, refitted less judged: mean {np.mean(gains):+.5f}")


if __name__ == "__main__":
    main()
