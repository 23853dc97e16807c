"""Loss without each feature, measured by permuting its inputs or by training without it.

Both methods use the featurized rows of a finished run. Permutation scores the evaluate rows with
the run's candidate and a feature's inputs shuffled among rows (Breiman 2001). It takes seconds per
feature, but overrates a feature that others could replace. Retraining trains the model again
without the inputs, so it accounts for what other features make up for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.ablation.costs import seconds_of_feature, usd
from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.errors import ConfigError, MissingDataError, NightbidError
from nightbid.evaluation.bootstrap import Difference, Replicates, Resampling, replicate
from nightbid.evaluation.metrics import auc, log_loss
from nightbid.evaluation.scores import Floats, ScoreTable
from nightbid.features.fitted import FittedFeatures
from nightbid.models.layout import Layout, Packed
from nightbid.models.predict import load_model
from nightbid.night.progress import Progress, silent, unwatched
from nightbid.night.record import RunRecord
from nightbid.schema import LABEL, USER, WEIGHT, FeatureSchema, split_files
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import fetch

FILE = "ablation.json"
"""Name of the file next to the run's records; the report shows it."""
Method = Literal["permutation", "retraining"]
MEASURED_ROWS = 20_000
"""Maximum number of rows on which costs are measured."""


@dataclass(frozen=True)
class FeatureWorth:
    """Value of a feature or a group. Differences are the metric without it minus with it."""

    name: str
    features: tuple[str, ...]
    log_loss: Difference | None
    auc: Difference | None
    night_seconds: float
    """CPU seconds per night for learning and transforming it."""
    night_usd: float
    request_ms: float
    """CPU milliseconds for looking it up for 100 candidates."""
    why_not: str = ""
    """Reason that its loss is unknown; empty otherwise."""

    @property
    def per_usd(self) -> float | None:
        """Reduction of log loss per USD spent per night."""
        value = None if self.log_loss is None else self.log_loss["value"]
        return None if value is None or not self.night_usd else value / self.night_usd


@dataclass(frozen=True)
class Ablation:
    """Values of all features of a run, the most valuable first."""

    run_id: str
    method: Method
    rows: int
    users: int
    log_loss: float
    """Log loss with every feature."""
    auc: float
    features: tuple[FeatureWorth, ...]

    def save(self, run: RunRecord) -> None:
        """Write the ablation next to the run's records."""
        text = json.dumps(asdict(self), indent=1)
        write_atomically(run.folder / FILE, text)


class _FeaturizedRows:
    """Featurized evaluate rows of a run, with metrics and intervals of scores on them."""

    def __init__(self, featurized: Path, layout: Layout, replicates: int, seed: int) -> None:
        files = split_files(featurized, "evaluate")
        if not files:
            raise MissingDataError("no evaluate rows", where=str(featurized), hint="run it again")
        columns = [*layout.columns(), LABEL, WEIGHT, USER]
        self.table = pa.concat_tables(
            [pq.read_table(path, columns=columns, partitioning=None) for path in files]
        )
        self.labels = self.table[LABEL].to_numpy().astype(np.float64)
        self.weights = self.table[WEIGHT].to_numpy().astype(np.float64)
        self.users = self.table[USER].to_numpy().astype(np.int64)
        self.resampling = Resampling.of(self.users, replicates, seed)

    def measured(self, scores: Floats) -> tuple[float, float, Replicates]:
        """Compute log loss, AUC, and the replicates of both."""
        table = ScoreTable.of(self.labels, scores, self.weights)
        drawn = replicate(self.resampling, self.labels, self.weights, self.users, {"model": scores})
        return log_loss(table), auc(table), drawn["model"]


def ablate(
    run: RunRecord,
    spec: PipelineSpec,
    *,
    method: Method = "permutation",
    only: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    progress: Progress = silent,
) -> Ablation:
    """Measure the value of each feature of a run's candidate.

    Args:
        run: Run with a trained candidate.
        spec: Specification of the run's pipeline.
        method: `permutation` or `retraining`.
        only: Names of features to measure; empty means all, or none if there are groups.
        groups: Name → features to remove together, in addition.
        progress: Progress callback.

    Raises:
        ConfigError: There is no such feature, or the pipeline predicts values.
        MissingDataError: The run has no trained candidate, or its rows are deleted.
    """
    if spec.label.kind == "value":
        raise ConfigError(
            "ablations are measured in log loss and AUC, but this pipeline predicts values",
            where=spec.pipeline,
            hint="run a night without the feature, then compare both:"
            f" `nightbid compare {spec.pipeline} RUN RUN`",
        )
    sample, featurized, trained = (_output(run, name) for name in ("sample", "featurize", "train"))
    fitted = FittedFeatures.load(featurized / "fitted")
    parts = _parts(list(fitted.definition.features), only, groups or {})
    model = load_model(trained / "model")
    layout = Layout(model.card.features)
    rows = _FeaturizedRows(featurized, layout, spec.evaluate.bootstrap, spec.seed)
    progress(0.0, f"scoring {counted(len(rows.labels), 'row')}")
    packed = layout.pack(rows.table, serving=True)
    with_all = rows.measured(model.score(packed))
    costs = _Costs(fitted, sample, featurized)
    measured = []
    for number, (name, features) in enumerate(parts.items()):
        progress(number / len(parts), name)
        without: Floats | None = None
        why_not = ""
        try:
            if method == "permutation":
                shuffled = _permuted(layout, packed, features, seed=spec.seed)
                without = model.score(shuffled)
            else:
                without = _retrained(spec, featurized, features, rows.table, progress)
        except NightbidError as error:
            why_not = error.what
        seconds, request = costs.of(features)
        measured.append(
            FeatureWorth(
                name=name,
                features=features,
                **_differences(rows, with_all, without),
                night_seconds=seconds,
                night_usd=float(usd(seconds)),
                request_ms=1000 * request,
                why_not=why_not,
            )
        )
    worth = sorted(measured, key=lambda part: -_value(part))
    loss, area, _ = with_all
    users = len(rows.resampling.users)
    return Ablation(run.run_id, method, len(rows.labels), users, loss, area, tuple(worth))


def _differences(
    rows: _FeaturizedRows, with_all: tuple[float, float, Replicates], without: Floats | None
) -> dict[str, Difference | None]:
    if without is None:
        return {"log_loss": None, "auc": None}
    loss, area, drawn = rows.measured(without)
    return {
        "log_loss": drawn.difference(with_all[2], "log_loss", loss - with_all[0]),
        "auc": drawn.difference(with_all[2], "auc", area - with_all[1]),
    }


def _value(worth: FeatureWorth) -> float:
    value = None if worth.log_loss is None else worth.log_loss["value"]
    return -np.inf if value is None else value


def _parts(
    known: list[str], only: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    for name in (*only, *(name for names in groups.values() for name in names)):
        if name not in known:
            close = get_close_matches(name, known, 1)
            raise ConfigError(
                f"no feature called {name!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"features: {', '.join(known)}",
            )
    singles = {name: (name,) for name in (only or (() if groups else known))}
    return {**singles, **{name: tuple(names) for name, names in groups.items()}}


def _permuted(layout: Layout, packed: Packed, features: tuple[str, ...], *, seed: int) -> Packed:
    """Shuffle the inputs of some features among rows, all in the same order."""
    order = np.random.default_rng(seed).permutation(len(packed))
    ids, numbers = packed.ids.copy(), packed.numbers.copy()
    bags = packed.bag_weights.copy()
    for field in layout.lookups:
        if field.feature in features:
            place = layout.places[field.name]
            ids[:, place] = packed.ids[order, place]
            if field.kind == "bag":
                place = layout.bag_places[field.name]
                bags[:, place] = packed.bag_weights[order, place]
    for at, field in enumerate(layout.numbers):
        if field.feature in features:
            numbers[:, at] = packed.numbers[order, at]
    return Packed(ids, numbers, bags)


def _retrained(
    spec: PipelineSpec,
    featurized: Path,
    features: tuple[str, ...],
    table: pa.Table,
    progress: Progress,
) -> Floats:
    """Train the run's model without some features on its featurized rows; return its scores."""
    from nightbid.training.job import FitJob, run_job

    schema = FeatureSchema.load(featurized / "fitted")
    inputs = tuple(field for field in schema.inputs if field.feature not in features)
    if not inputs:
        raise ConfigError("no input is left to train on", hint="leave out fewer features at once")
    with tempfile.TemporaryDirectory(prefix="nightbid-ablate-") as name:
        folder = Path(name)
        (folder / "rows" / "fitted").mkdir(parents=True)
        for partition in featurized.glob("split=*"):
            (folder / "rows" / partition.name).symlink_to(partition.resolve())
        FeatureSchema(inputs=inputs).save(folder / "rows" / "fitted")
        cold = spec.train.model_copy(update={"mode": "full", "workers": 1})
        job = FitJob(
            model=spec.model,
            train=cold,
            label=spec.label,
            seed=spec.seed + cold.seed,
            featurized=folder / "rows",
            output=folder / "trained",
        )
        (folder / "trained").mkdir()
        run_job(job, progress=progress, watch=unwatched)
        return load_model(folder / "trained" / "model").predict(table)


class _Costs:
    """Measures the cost of features on rows of the night."""

    def __init__(self, fitted: FittedFeatures, sample: Path, featurized: Path) -> None:
        path = split_files(sample, "evaluate")[0]
        with pq.ParquetFile(path) as file:
            self._raw = file.read().slice(0, MEASURED_ROWS)
        self._fitted = fitted
        self._learned = sum(_rows_in(sample, split) for split in ("history", "train"))
        self._transformed = sum(
            _rows_in(featurized, split) for split in ("train", "validate", "evaluate")
        )

    def of(self, features: tuple[str, ...]) -> tuple[float, float]:
        """Return the CPU seconds of features per night, and per request."""
        seconds = [
            seconds_of_feature(name, self._fitted, self._raw, self._learned, self._transformed)
            for name in features
        ]
        return sum(one for one, _ in seconds), sum(two for _, two in seconds)


def _rows_in(folder: Path, split: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in split_files(folder, split))


def _output(run: RunRecord, stage: str) -> Path:
    record = run.stage(stage)
    if record is None or record.state != "done" or not record.uri:
        raise MissingDataError(
            f"run {run.run_id!r} has no finished {stage!r}",
            where=run.head.pipeline,
            hint=f"`nightbid run {run.head.pipeline} --date {run.date} --until train`",
        )
    return Path(fetch(run.workspace.at(record.uri)))
