"""How far predictions are from the truth on simulated nights, by calibration method.

    nice python benchmarks/bidding_nights.py --models --rows 30000   # trains ten nights
    nice python benchmarks/calibration.py                            # reads what it left

Every model of `bidding_nights.py --models` is recalibrated on the validation rows of its night and
compared with the true probabilities on the evaluation rows: mean prediction over mean truth,
expected log loss and field-level calibration error.

    none      as trained
    rate      mean prediction of the training rows = their label rate (what `ctr` does)
    platt     a line over the logits, on validation rows
    by_slice  rate, plus an offset per value of each slice column, fitted on validation rows and
              shrunk by how far the column's offsets differ beyond chance
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from environments import CACHE
from nightbid.models.folder import load_card
from nightbid.models.predict import load_model
from nightbid.night.record import runs_of
from nightbid.schema import LABEL, TRUTH, USER, WEIGHT, split_files
from nightbid.storage.workspace import Workspace, read_manifest
from nightbid.training.by_slice import shrunken
from nightbid.training.calibration import platt
from nightbid.training.refit import compare

WAYS = ("none", "rate", "platt", "by_slice")


class Part:
    """Rows of one split, raw and featurized."""

    def __init__(self, sample: Path, featurized: Path, split: str) -> None:
        def read(folder: Path) -> pa.Table:
            return pq.read_table(split_files(folder, split), partitioning=None)

        self.raw, self.inputs = read(sample), read(featurized)
        self.labels = self.raw[LABEL].to_numpy().astype(float)
        self.weights = self.raw[WEIGHT].to_numpy().astype(float)


def logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.log(p) - np.log1p(-p)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def by_slice(fit: Part, z: np.ndarray, part: Part, other: np.ndarray, columns) -> np.ndarray:
    """Shift the logits `other` of `part` by offsets fitted on `fit`, column by column."""
    for column in columns:
        values, code = np.unique(fit.raw[column].to_pylist(), return_inverse=True)
        offset = shrunken(z, fit.labels, fit.weights, code, np.ones(len(values), bool))
        z = z + offset[code]
        position = np.searchsorted(values, part_values := np.array(part.raw[column].to_pylist()))
        position = np.minimum(position, len(values) - 1)
        other = other + np.where(values[position] == part_values, offset[position], 0.0)
    return other


def field_error(part: Part, p: np.ndarray, columns) -> float:
    """Return the mean over columns of Σ over values |Σ (p − truth)| / Σ truth."""
    true = part.raw[TRUTH].to_numpy()
    errors = []
    for column in columns:
        code = np.unique(part.raw[column].to_pylist(), return_inverse=True)[1]
        errors.append(np.abs(np.bincount(code, p - true)).sum() / true.sum())
    return float(np.mean(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=CACHE / "bidding")
    options = parser.parse_args()
    workspace = Workspace(str(options.folder / "ws"))
    parts: dict[str, list[tuple[Part, dict[str, np.ndarray], list[float]]]] = {}
    trained: dict[tuple[str, str], dict[str, Path]] = {}
    for stage in ("train", "train_baseline"):
        for path in sorted((options.folder / "ws" / "stages" / "ctr" / stage).glob("*/model")):
            night = read_manifest(path.parent).night
            trained.setdefault((night, stage), {})[load_card(path).architecture] = path
    for run in runs_of(workspace, "ctr"):
        columns = run.head.spec["evaluate"]["slices"]
        place = {
            name: Path(str(workspace.at(run.stage(name).uri))) for name in ("sample", "featurize")
        }
        fit, part = (
            Part(place["sample"], place["featurize"], split) for split in ("validate", "evaluate")
        )
        night = str(run.date)
        models = {**trained.get((night, "train"), {}), **trained.get((night, "train_baseline"), {})}
        for name, folder in models.items():
            model = load_model(folder)
            shift = model.card.calibration.intercept
            z, other = (logit(model.predict(rows.inputs)) for rows in (fit, part))
            line = platt(sigmoid(z), fit)
            logits_by_way = {
                "none": other - shift,
                "rate": other,
                "platt": line.slope * other + line.intercept,
                "by_slice": by_slice(fit, z, part, other, columns),
            }
            scores = {way: sigmoid(logits) for way, logits in logits_by_way.items()}
            errors = [field_error(part, scores[way], columns) for way in WAYS]
            parts.setdefault(name, []).append((part, scores, errors))
            print(f"  {run.date} {name}", flush=True)
    for name, nights in parts.items():
        report(name, nights)


def report(name: str, nights: list) -> None:
    true = np.concatenate([part.raw[TRUTH].to_numpy() for part, _, _ in nights])
    label = np.concatenate([part.labels for part, _, _ in nights])
    users = np.concatenate([part.raw[USER].to_numpy() for part, _, _ in nights]).astype(np.int64)
    p = {way: np.concatenate([scores[way] for _, scores, _ in nights]) for way in WAYS}
    print(f"\n{name}, {len(nights)} nights, {len(true):,} rows")
    print(f"  {'':10}{'mean / truth':>13}{'by night':>18}{'field error':>13}{'expected':>10}"
          f"   log loss less that of rate")  # fmt: skip
    for number, way in enumerate(WAYS):
        ratios = [
            scores[way].mean() / part.raw[TRUTH].to_numpy().mean() for part, scores, _ in nights
        ]
        clipped = np.clip(p[way], 1e-7, 1 - 1e-7)
        expected = float(-(true * np.log(clipped) + (1 - true) * np.log1p(-clipped)).mean())
        delta = compare(p["rate"], p[way], labels=label, weights=np.ones(len(label)),
                       users=users)["difference"]  # fmt: skip
        print(f"  {way:10}{p[way].mean() / true.mean():13.3f}"
              f"{f'{min(ratios):.3f} to {max(ratios):.3f}':>18}"
              f"{np.mean([errors[number] for *_, errors in nights]):13.4f}{expected:10.5f}"
              f"   {delta['value']:+.5f} [{delta['low']:+.5f}, {delta['high']:+.5f}]")  # fmt: skip


if __name__ == "__main__":
    main()
