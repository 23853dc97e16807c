"""Refit: train again on all days, and compare with the judged model.

The judged model has not learned the validation and evaluation days; the model that serves should.
The same recipe is trained from scratch on the rows of all days, for as many epochs (trees) as were
best for the judged model. The rows of a fixed tenth of the users on the newest days are held out:
neither model has learned them or was stopped by them. Both models are compared on these rows, and
`nightbid.serving.refitted` and the gate after it decide from that whether the refitted model may
serve.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.evaluation.bootstrap import Resampling, bounds
from nightbid.models.predict import FittedModel, load_model
from nightbid.models.registry import find
from nightbid.night.progress import unwatched
from nightbid.night.task import StageTask
from nightbid.schema import LABEL, USER, WEIGHT, split_files
from nightbid.training.job import Fit, FitJob, run_job
from nightbid.training.stage import asked_candidate

NEWEST = ("validate", "evaluate")
HELD = 10
"""One in this many users is held out."""
MIX = np.uint64(0x9E3779B97F4A7C15)
TINY = 1e-7
REPLICATES = 200
Floats = npt.NDArray[np.float64]


class CannotCompare(MissingDataError):
    """Raised when too few rows are held out to compare two models."""


@dataclass(frozen=True)
class Refit:
    """Model that has learned all days."""

    model: FittedModel
    metrics: Mapping[str, Any]
    """Row counts, and the figures of both models on the held-out rows."""


def refit(task: StageTask, judged: FittedModel, folder: Path, least: int = 0) -> Refit:
    """Train the pipeline's model on all days, and write it.

    Args:
        task: Stage task with the outputs of featurize and train.
        judged: Model that the night's gates have judged.
        folder: Folder for the new model; must not exist.
        least: Minimum number of held-out users, and of their positives; with fewer, nothing is
            trained.

    Raises:
        CannotCompare: The newest days have no rows of held-out users, or too few.
    """
    featurized = task.inputs["featurize"].path
    requested = asked_candidate(task)
    with tempfile.TemporaryDirectory(dir=task.output.parent) as scratch:
        split = _split(featurized, Path(scratch))
        young_rows = split.young
        if not split.users or min(split.users, split.positives) < least:
            raise CannotCompare(
                f"the newest days hold out the rows of {counted(split.users, 'user')}, with"
                f" {counted(split.positives, 'positive')}"
                + (f"; {least} are needed" if least else ""),
                where="train.refit",
                hint="widen the validation or evaluation window, or set train.refit: false",
            )
        job = FitJob(
            **{name: getattr(requested.fit, name) for name in Fit.model_fields},
            featurized=Path(scratch),
            output=Path(scratch) / "fitted_again",
            checkpoints=task.checkpoints,
            young=young_rows > 0,
        )
        job = _as_long(job, task.inputs["train"].manifest.metrics)
        metrics = run_job(job, progress=task.progress, watch=unwatched)
        shutil.copytree(job.output / "model", folder)
        model = load_model(folder)
        parts: dict[str, list[npt.NDArray[Any]]] = {}
        for path in split_files(Path(scratch), "validate"):
            held = pq.read_table(path, partitioning=None)
            if not len(held):
                continue
            held_columns = {
                "judged": judged.predict(held),
                "refitted": model.predict(held),
                **{name: held[name].to_numpy() for name in (LABEL, WEIGHT, USER)},
            }
            for name, values in held_columns.items():
                parts.setdefault(name, []).append(values)
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    compared = compare(
        columns["judged"],
        columns["refitted"],
        labels=columns[LABEL].astype(np.float64),
        weights=columns[WEIGHT].astype(np.float64),
        users=columns[USER].astype(np.int64),
        seed=task.spec.seed,
    )
    rows = {
        "rows": metrics["rows"],
        "epochs": metrics["epochs"],
        "positives": list(split.learned),
        **({"young_rows": young_rows} if young_rows else {}),
    }
    return Refit(model, {**rows, "parameters": metrics["parameters"], **compared})


def compare(
    judged: Floats,
    refitted: Floats,
    *,
    labels: Floats,
    weights: Floats,
    users: npt.NDArray[np.int64],
    seed: int = 0,
) -> dict[str, Any]:
    """Compare both models on rows that neither of them has learned.

    Args:
        judged: [rows] probabilities of the judged model.
        refitted: [rows] probabilities of the refitted model.
        labels: [rows] 0 or 1.
        weights: [rows] above 0.
        users: [rows] hashed user, the unit of resampling.
        seed: Seed of the resampling.

    Returns:
        `held_rows`, `held_positives`; `judged` and `refitted` with log loss and calibration (mean
        prediction over mean label); `difference` in log loss with its interval over users;
        `agreement` (correlation of the log odds) and `mean_ratio` of the predictions.
    """
    resampling = Resampling.of(users, REPLICATES, seed)
    at = np.searchsorted(resampling.users, users)
    size = len(resampling.users)
    mass = np.bincount(at, weights, size)
    losses = {"judged": _losses(judged, labels), "refitted": _losses(refitted, labels)}
    extra = np.bincount(at, weights * (losses["refitted"] - losses["judged"]), size)
    drawn = resampling.weights.astype(np.float64).T
    low, high = bounds((drawn @ extra) / np.maximum(drawn @ mass, TINY))
    total = float(weights.sum())
    positives = float(weights @ labels)
    log_odds = [_logits(p) for p in (judged, refitted)]
    apart = min(float(np.std(logits)) for logits in log_odds)
    return {
        "held_rows": len(labels),
        "held_users": size,
        "held_positives": int(labels.sum()),
        **{
            name: {
                "log_loss": float(weights @ losses[name]) / total,
                "calibration": float(weights @ p) / positives if positives else None,
            }
            for name, p in (("judged", judged), ("refitted", refitted))
        },
        "difference": {"value": float(extra.sum()) / total, "low": low, "high": high},
        "agreement": float(np.corrcoef(log_odds[0], log_odds[1])[0, 1]) if apart > TINY else None,
        "mean_ratio": float(weights @ refitted) / float(weights @ judged),
    }


def _as_long(job: FitJob, judged: Mapping[str, Any]) -> FitJob:
    """Make a job train as many epochs (trees), with the same batch size, as the judged model.

    The members of an ensemble use early stopping on the held-out rows instead.
    """
    if find(job.model.architecture).engine == "ensemble":
        return job
    settings = job.train
    if "most_epochs" in judged:
        same = {"batch_size": judged["batch_size"], "epochs": judged["most_epochs"]}
        settings = settings.model_copy(update=same)
    return job.model_copy(update={"train": settings, "last_epoch": int(judged["best_epoch"])})


@dataclass(frozen=True)
class _SplitCounts:
    """Counts of the rows that `_split` lays out."""

    young: int
    """Number of rows whose labels are not final."""
    users: int
    """Number of held-out users."""
    positives: int
    """Number of positives of held-out users."""
    learned: tuple[int, int]
    """Number of positives that the judged and the refitted model learn from."""


def _split(featurized: Path, scratch: Path) -> _SplitCounts:
    """Write all days as training rows, and the held-out rows as validation rows, file by file.

    Days whose labels are not final stay in the split `young`, without the held-out users.
    """
    (scratch / "fitted").symlink_to(featurized / "fitted")
    before = 0
    for path in split_files(featurized, "train"):
        place = scratch / "split=train" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
        labels = pq.read_table(path, columns=[LABEL], partitioning=None)[LABEL].to_numpy()
        before += int((labels > 0).sum())
    young = positives = fresh = 0
    users = np.zeros(0, np.int64)
    for path in split_files(featurized, "young"):
        table = pq.read_table(path, partitioning=None)
        table = table.filter(pa.array(~_is_held(table[USER].to_numpy())))
        place = scratch / "split=young" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place)
        young += len(table)
    for split in NEWEST:
        for path in split_files(featurized, split):
            table = pq.read_table(path, partitioning=None)
            out = _is_held(table[USER].to_numpy())
            for name, part in (("train", table.filter(pa.array(~out))),
                               ("validate", table.filter(pa.array(out)))):  # fmt: skip
                place = scratch / f"split={name}" / path.parent.name / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(part, place)
            users = np.union1d(users, table[USER].to_numpy()[out])
            is_positive = table[LABEL].to_numpy() > 0
            positives += int(is_positive[out].sum())
            fresh += int(is_positive[~out].sum())
    return _SplitCounts(young, len(users), positives, (before, before + fresh))


def _is_held(users: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    mixed = users.astype(np.int64).view(np.uint64) * MIX
    return np.asarray((mixed >> np.uint64(33)) % np.uint64(HELD) == 0)


def _losses(p: Floats, labels: Floats) -> Floats:
    p = np.clip(p, TINY, 1 - TINY)
    return np.asarray(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)))


def _logits(p: Floats) -> Floats:
    p = np.clip(p, TINY, 1 - TINY)
    return np.asarray(np.log(p) - np.log1p(-p))
