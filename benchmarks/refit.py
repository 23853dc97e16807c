"""Gain of refitting on all days: both models of a night on the rows of the next day.

    nice python benchmarks/refit.py                                  # ten simulated nights
    nice python benchmarks/refit.py --rows 20000 --nights 4 --architecture gradient_boosted_trees
    nice python benchmarks/refit.py --kuairand ../shared/data/kuairand_std_14d --nights 4
    nice python benchmarks/refit.py --young --architecture gradient_boosted_trees

The figure is the log loss of the refitted model minus that of the judged one, paired over users,
over all nights. --young uses conversions that are final after three days, and refits without the
days whose labels are not final, and with them (`label.young_days: elapsed_time`).
"""

from __future__ import annotations

import argparse
import os
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from environments import CACHE
from nightbid.config.load import load_pipeline
from nightbid.features.fitted import FittedFeatures
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.schema import LABEL, USER, split_files
from nightbid.serving.bundle import Bundle
from nightbid.storage.workspace import Workspace
from nightbid.training.refit import compare

PIPELINES = Path(__file__).parents[1] / "include" / "pipelines"
STAGES = ("sample", "featurize", "train", "export")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--architecture", default="dcn_v2")
    parser.add_argument("--kuairand")
    parser.add_argument("--young", action="store_true", help="conversions, with young days and not")
    parser.add_argument("--folder", type=Path, default=CACHE / "refit")
    args = parser.parse_args()
    name, first = (
        ("kuairand_ctr", date(2022, 5, 4)) if args.kuairand
        else ("cvr", date(2026, 1, 16)) if args.young
        else ("ctr", date(2026, 1, 12))
    )  # fmt: skip
    source = (
        [f"source.folder={args.kuairand}", "window.train_days=7",
         "window.evaluate_days=1"] if args.kuairand
        else [f"source.rows_per_day={args.rows}"]
    )  # fmt: skip
    settings = [f"model.architecture={args.architecture}", "train.refit=true", *source]
    variants = {"refitted": load_pipeline(PIPELINES / f"{name}.yaml", settings)}
    if args.young:
        young = ["label.young_days=elapsed_time", "label.delay_by=ad_category"]
        variants["young"] = load_pipeline(PIPELINES / f"{name}.yaml", [*settings, *young])
    models = ("judged", *variants)
    # The next day's rows are evaluated once their labels are final.
    wait = timedelta(1 + variants["refitted"].label.attribution_days)
    workspace = Workspace(args.folder / "ws")
    bundles: dict[date, list[Bundle]] = {}
    parts = []
    for number in range(args.nights + wait.days):
        night = first + timedelta(number)
        places, loaded = {}, []
        for variant, spec in variants.items():
            run = RunRecord.start(workspace, spec, night, run_id=f"{variant}-{night}")
            for stage in NIGHT:
                is_needed = number < args.nights or stage.name in ("sample", "featurize")
                if stage.name not in STAGES or not is_needed:
                    continue
                result = run_stage(stage, spec, run, cache_folder=args.folder / "cache")
                places[stage.name] = args.folder / "ws" / result.uri
            if number < args.nights:
                if not loaded:
                    loaded.append(Bundle.load(places["export"], judged=True))
                loaded.append(Bundle.load(places["export"]))
                print(f"  {run.run_id}: {result.manifest.summary}", flush=True)
        if loaded:
            bundles[night] = loaded
        if due := bundles.pop(night - wait, None):
            raw = pq.read_table(split_files(places["sample"], "evaluate"), partitioning=None)
            tonight = FittedFeatures.load(places["featurize"] / "fitted")
            rows = due[0].fitted.with_history(tonight).transform(raw)
            parts.append((raw.select([LABEL, USER]), *(bundle.predict(rows) for bundle in due)))
    raw = pa.concat_tables([part[0] for part in parts])
    p = {model: np.concatenate([part[1 + at] for part in parts]) for at, model in enumerate(models)}
    print(f"\n{name}, {args.architecture}, {args.nights} nights, {len(raw):,} rows of days after")
    for earlier, model in pairwise(models):
        comparison = compare(
            p[earlier],
            p[model],
            labels=raw[LABEL].to_numpy().astype(float),
            weights=np.ones(len(raw)),
            users=raw[USER].to_numpy().astype(np.int64),
        )
        difference = comparison["difference"]
        for which, shown in (("judged", earlier), ("refitted", model)):
            print(f"  {shown:9} log loss {comparison[which]['log_loss']:.5f}, calibration "
                  f"{comparison[which]['calibration']:.3f}")  # fmt: skip
        print(f"  {model} less {earlier} {difference['value']:+.5f} [{difference['low']:+.5f},"
              f" {difference['high']:+.5f}]")  # fmt: skip


if __name__ == "__main__":
    main()
