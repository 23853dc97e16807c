"""What refitting on all days gains: both models of a night on the rows of the day after.

    nice python benchmarks/refit.py                                  # ten simulated nights
    nice python benchmarks/refit.py --rows 20000 --nights 4 --architecture gradient_boosted_trees
    nice python benchmarks/refit.py --kuairand ../shared/data/kuairand_std_14d --nights 4

Log loss of the refitted model less that of the judged one, paired over users, all nights together.
"""

from __future__ import annotations

import argparse
import os
from datetime import date, timedelta
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
    parser.add_argument("--folder", type=Path, default=CACHE / "refit")
    asked = parser.parse_args()
    name, first = (
        ("kuairand_ctr", date(2022, 5, 4)) if asked.kuairand else ("ctr", date(2026, 1, 12))
    )
    source = (
        [f"source.folder={asked.kuairand}"] if asked.kuairand
        else [f"source.rows_per_day={asked.rows}"]
    )  # fmt: skip
    spec = load_pipeline(
        PIPELINES / f"{name}.yaml",
        [f"model.architecture={asked.architecture}", "train.refit=true", *source],
    )
    workspace = Workspace(asked.folder / "ws")
    bundle, parts = None, []
    for number in range(asked.nights + 1):
        run = RunRecord.start(workspace, spec, first + timedelta(number))
        places = {}
        for stage in NIGHT:
            last = number == asked.nights and stage.name in ("train", "export")
            if stage.name in STAGES and not last:
                result = run_stage(stage, spec, run, cache_folder=asked.folder / "cache")
                places[stage.name] = asked.folder / "ws" / result.uri
        if bundle is not None:
            raw = pq.read_table(split_files(places["sample"], "evaluate"), partitioning=None)
            tonight = FittedFeatures.load(places["featurize"] / "fitted")
            rows = bundle[0].fitted.with_history(tonight).transform(raw)
            parts.append((raw, *(each.predict(rows) for each in bundle)))
        if "export" in places:
            bundle = (Bundle.load(places["export"], judged=True), Bundle.load(places["export"]))
            print(f"  {run.date}: {result.manifest.summary}", flush=True)
    raw = pa.concat_tables([each[0].select([LABEL, USER]) for each in parts])
    found = compare(
        np.concatenate([each[1] for each in parts]),
        np.concatenate([each[2] for each in parts]),
        labels=raw[LABEL].to_numpy().astype(float),
        weights=np.ones(len(raw)),
        users=raw[USER].to_numpy().astype(np.int64),
    )
    each = found["difference"]
    print(f"\n{name}, {asked.architecture}, {asked.nights} nights, {len(raw):,} rows of days after")
    for model in ("judged", "refitted"):
        print(f"  {model:9} log loss {found[model]['log_loss']:.5f}, calibration "
              f"{found[model]['calibration']:.3f}")  # fmt: skip
    print(f"  refitted less judged {each['value']:+.5f} [{each['low']:+.5f}, {each['high']:+.5f}]")


if __name__ == "__main__":
    main()
