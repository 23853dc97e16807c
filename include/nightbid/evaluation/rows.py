"""The evaluate rows, scored piece by piece: about 100 bytes are kept per row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.anonymous import are_anonymous
from nightbid.counts import are, counted
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.evaluation.bootstrap import share_of_users
from nightbid.evaluation.memory import share_that_fits
from nightbid.evaluation.scores import Floats, Ints
from nightbid.machine import memory_limit
from nightbid.night.task import StageTask
from nightbid.number_parsing import numbers
from nightbid.schema import GIVEN, KEY, LABEL, TIME, TRUTH, USER, WEIGHT, split_files

DAY = 86_400_000_000
PIECE = 1 << 17
"""Rows of a day that are read and scored at once: a multiple of a network's batch, so that scores
are bit-identical to those of a whole day at once."""
AS_LOGGED = "as logged"
PROPENSITY = "propensity"


@dataclass(frozen=True)
class EarlierChampion:
    """Scores of a champion that served before the current one."""

    number: int
    """Number of its promotion in the champion history."""
    night: str
    """Night that trained it, YYYY-MM-DD."""
    scores: Floats
    """[rows] predictions."""


@dataclass(frozen=True)
class EvaluationRows:
    """Columns of the evaluate rows, all [rows], in their canonical order."""

    keys: Ints
    labels: Floats
    weights: Floats
    users: Ints
    days: Ints
    """Days since 1970-01-01."""
    truth: Floats | None
    """True probabilities if a simulator knows them."""
    slices: pa.Table
    """Columns to slice by."""
    scores: Mapping[str, Floats]
    """Model → predictions."""
    as_logged: Floats | None = None
    """The candidate's predictions with the logged position; None without training-only inputs."""
    earlier: tuple[EarlierChampion, ...] = ()
    """Recent champions before the current one."""
    given: Floats | None = None
    """1 if the label's condition held, else 0; None if only such rows are kept."""
    tasks: Mapping[str, Floats] = field(default_factory=dict)
    """Columns of condition and label → probabilities; empty unless the candidate is multi-task."""
    propensity: Floats | None = None
    """Probability with which the logged item was shown; NaN if unknown or invalid."""
    unscored: int = 0
    """Number of rows left out because a baseline in the logs has no score for them."""
    share: float = 1.0
    """Share of the users that are evaluated; below 1 if all rows would not fit in memory."""
    others: int = 0
    """Number of rows of the other users."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> str:
        """Digest of keys, labels, weights and users: equal digests mean equal rows."""
        total = hashlib.sha256()
        for column in (self.keys, self.labels, self.weights, self.users):
            total.update(np.ascontiguousarray(column).tobytes())
        return total.hexdigest()[:32]

    def units(self, resampled: int) -> dict[str, int]:
        """Return the metrics `users` and, if there are any, `anonymous`: rows without a user.

        Args:
            resampled: Number of units that intervals resample: users, and rows without a user.
        """
        anonymous = int(are_anonymous(self.keys, self.users).sum())
        return {"users": resampled - anonymous, **({"anonymous": anonymous} if anonymous else {})}

    @property
    def lists(self) -> Ints:
        """[rows] one number per user and day: rows with the same number are ranked together."""
        return self.users * np.int64(1_000_003) + self.days

    def scored(self, tolerated: float, column: str) -> EvaluationRows:
        """Leave out the rows for which a baseline in the logs has no score.

        Args:
            tolerated: Maximum share of rows without a score.
            column: Name of the baseline's column.

        Raises:
            CorruptDataError: More rows have no score, or some scores are not probabilities.
        """
        score = self.scores["baseline"]
        wrong = np.flatnonzero((score < 0) | (score > 1))
        if len(wrong):
            raise CorruptDataError(
                f"{len(wrong):,} of {counted(len(score), 'value')} {are(len(wrong))} not within 0"
                " and 1, the first is"
                f" {score[wrong[0]]:g}",
                where=f"baseline.column {column}",
                hint="log the predicted probability, not a rank or a logit",
            )
        known = ~np.isnan(score)
        missing = int((~known).sum())
        if missing > tolerated * len(score):
            raise CorruptDataError(
                f"no score in {missing:,} of {counted(len(score), 'evaluate row')}",
                where=f"baseline.column {column}",
                hint=f"correct the logs; baseline.unscored tolerates {tolerated:.2%}",
            )
        if not missing:
            return self
        return replace(
            self,
            keys=self.keys[known],
            labels=self.labels[known],
            weights=self.weights[known],
            users=self.users[known],
            days=self.days[known],
            truth=None if self.truth is None else self.truth[known],
            slices=self.slices.filter(pa.array(known)),
            scores={name: values[known] for name, values in self.scores.items()},
            as_logged=None if self.as_logged is None else self.as_logged[known],
            earlier=tuple(
                replace(champion, scores=champion.scores[known]) for champion in self.earlier
            ),
            given=None if self.given is None else self.given[known],
            propensity=None if self.propensity is None else self.propensity[known],
            tasks={name: values[known] for name, values in self.tasks.items()},
            unscored=missing,
        )

    def save_scores(self, path: Path) -> None:
        """Write keys, labels and scores as Parquet, for later row-by-row comparisons."""
        columns: dict[str, npt.NDArray[np.generic]] = {
            KEY: self.keys,
            USER: self.users,
            LABEL: self.labels.astype(np.float32),
            WEIGHT: self.weights.astype(np.float32),
            **{name: values.astype(np.float32) for name, values in self.scores.items()},
        }
        table = pa.table({name: pa.array(column) for name, column in columns.items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd", use_dictionary=False)


def score_rows(task: StageTask, slices: tuple[str, ...]) -> EvaluationRows:
    """Score the evaluate rows with candidate, baseline and champions, piece by piece.

    Only one piece of raw and featurized rows is in memory at a time. A baseline in the logs
    (`baseline.column`) is read, not computed.

    Args:
        task: Evaluation task.
        slices: Columns to slice by.

    Raises:
        MissingDataError: There are no evaluate rows.
        CorruptDataError: Raw and featurized rows differ.
    """
    from nightbid.features.fitted import FittedFeatures
    from nightbid.models.predict import load_model
    from nightbid.serving.bundle import Bundle

    raw_files = _by_day(split_files(task.inputs["sample"].path, "evaluate"))
    files = _by_day(split_files(task.inputs["featurize"].path, "evaluate"))
    if not files or list(files) != list(raw_files):
        raise MissingDataError(
            f"{counted(len(raw_files), 'sampled day')} and {counted(len(files), 'featurized day')}"
            " of evaluate rows",
            where="evaluate",
            hint="both stages must come from one run: rerun the night from `sample`",
        )
    models = {"candidate": load_model(task.inputs["train"].path / "model")}
    baseline = task.spec.baseline
    if baseline.column is None:
        models["baseline"] = load_model(task.inputs["train_baseline"].path / "model")
    bundles: dict[str, tuple[Bundle, FittedFeatures]] = {}
    served = {**task.earlier_champions}
    if "champion" in task.inputs:
        served["champion"] = task.inputs["champion"]
    if served:
        tonight = FittedFeatures.load(task.inputs["featurize"].path / "fitted")
        for name, output in served.items():
            bundle = Bundle.load(output.path, judged=True)
            bundles[name] = bundle, bundle.fitted.with_history(tonight)
    reserved: dict[str, list[npt.NDArray[np.generic]]] = {}
    scores: dict[str, list[Floats]] = {}
    tasks: dict[str, list[Floats]] = {}
    sliced: list[pa.Table] = []
    propensity = task.spec.columns.propensity
    used = (*slices, *filter(None, (baseline.column, propensity)))
    limit = memory_limit(task.spec.evaluate.memory_gb)
    share, many = share_that_fits(
        [path for paths in files.values() for path in paths], limit, task.spec.evaluate.bootstrap
    )
    if share < 1:
        task.progress(0.0, f"{share:.1%} of the users: {many:,} rows would take more than"
                      f" evaluate.memory_gb {limit:.3g}")  # fmt: skip
    for done, day, rows, raw in _pieces(files, raw_files, None if bundles else used):
        task.progress(0.6 * done, f"scoring {day}")
        if share < 1:
            chosen = pa.array(share_of_users(rows[USER].to_numpy(), share))
            rows, raw = rows.filter(chosen), raw.filter(chosen)
            if not len(rows):
                continue
        for name, model in models.items():
            scores.setdefault(name, []).append(model.predict(rows))
        if baseline.column is not None:
            scores.setdefault("baseline", []).append(_logged(raw, baseline.column, day))
        if any(feature.training_only for feature in models["candidate"].card.features.inputs):
            scores.setdefault(AS_LOGGED, []).append(models["candidate"].predict_as_logged(rows))
        if models["candidate"].card.tasks:
            for name, predicted in models["candidate"].predict_tasks(rows).items():
                tasks.setdefault(name, []).append(predicted)
        for name, (bundle, features) in bundles.items():
            scores.setdefault(name, []).append(bundle.predict(features.transform(raw)))
        for name in (KEY, LABEL, WEIGHT, USER, TIME):
            reserved.setdefault(name, []).append(_numbers(rows[name]))
        if GIVEN in rows.column_names:
            reserved.setdefault(GIVEN, []).append(_numbers(rows[GIVEN]))
        if propensity and propensity in raw.column_names:
            reserved.setdefault(PROPENSITY, []).append(numbers(raw[propensity]))
        if TRUTH in raw.column_names:
            reserved.setdefault(TRUTH, []).append(_numbers(raw[TRUTH]))
        sliced.append(raw.select([column for column in slices if column in raw.column_names]))
    if not reserved:
        raise MissingDataError(
            f"a share of {share:.2g} of the users of {counted(many, 'evaluate row')} has no rows",
            where="evaluate.memory_gb",
            hint="raise it",
        )
    columns = {name: np.concatenate(parts) for name, parts in reserved.items()}
    joined_scores = {
        name: np.concatenate(parts).astype(np.float64).reshape(-1) for name, parts in scores.items()
    }
    truth = columns.get(TRUTH)
    evaluated = EvaluationRows(
        keys=columns[KEY].astype(np.int64),
        labels=columns[LABEL].astype(np.float64),
        weights=columns[WEIGHT].astype(np.float64),
        users=columns[USER].astype(np.int64),
        days=columns[TIME].astype(np.int64) // DAY,
        truth=None if truth is None or np.isnan(truth.astype(np.float64)).any()
        else truth.astype(np.float64),
        propensity=_possible(columns.get(PROPENSITY)),
        given=columns[GIVEN].astype(np.float64) if GIVEN in columns else None,
        tasks={name: np.concatenate(parts) for name, parts in tasks.items()},
        slices=pa.concat_tables(sliced, promote_options="permissive"),
        earlier=tuple(
            EarlierChampion(int(name), champion.manifest.night, joined_scores.pop(name))
            for name, champion in task.earlier_champions.items()
        ),
        as_logged=joined_scores.pop(AS_LOGGED, None),
        scores=joined_scores,
        share=share,
        others=many - len(columns[KEY]),
    )  # fmt: skip
    if baseline.column is None:
        return evaluated
    return evaluated.scored(baseline.unscored, baseline.column)


def _possible(propensity: npt.NDArray[np.generic] | None) -> Floats | None:
    """Return propensities, NaN unless above 0 and at most 1."""
    if propensity is None:
        return None
    values = propensity.astype(np.float64)
    return np.where((values > 0) & (values <= 1), values, np.nan)


def _logged(raw: pa.Table, column: str, day: str) -> Floats:
    """Return the scores in a column of the logs; NaN for missing ones."""
    if column not in raw.column_names:
        raise MissingDataError(
            f"there is no column {column!r}",
            where=day,
            hint="name the score of the other platform in baseline.column, or remove it",
        )
    return numbers(raw[column])


def training_rate(folder: Path) -> float:
    """Compute the weighted label rate of the training rows, the constant model's prediction.

    Args:
        folder: Output folder of the featurize stage.
    """
    positives = total = 0.0
    for path in split_files(folder, "train"):
        table = pq.read_table(path, columns=[LABEL, WEIGHT], partitioning=None)
        labels, weights = (table[name].to_numpy().astype(np.float64) for name in (LABEL, WEIGHT))
        positives += float(labels @ weights)
        total += float(weights.sum())
    return positives / total if total else 0.5


def _pieces(
    files: Mapping[str, list[Path]],
    raw_files: Mapping[str, list[Path]],
    used: tuple[str, ...] | None,
) -> Iterator[tuple[float, str, pa.Table, pa.Table]]:
    """Read featurized rows together with their raw rows, piece by piece.

    Args:
        files: Day → featurized files.
        raw_files: Day → sampled files; the two stages may split a day into files differently.
        used: Columns of the raw rows; None reads all, so that champions can look up features.

    Yields:
        The share of the rows read before, the day, and featurized and raw rows of equal number.

    Raises:
        CorruptDataError: The rows differ.
    """
    counts = {day: _count(paths) for day, paths in files.items()}
    total, done = max(sum(counts.values()), 1), 0
    for day, paths in files.items():
        columns = None if used is None else _needed(raw_files[day][0], used)
        wrong = CorruptDataError(
            f"{counted(_count(raw_files[day]), 'sampled row')} and"
            f" {counted(counts[day], 'featurized row')} are not the same",
            where=day,
            hint="rerun the night from `sample`; featurize must keep rows and their order",
        )
        both = zip_longest(_cut(paths), _cut(raw_files[day], columns))
        for rows, raw in both:
            if rows is None or raw is None or not raw[KEY].equals(rows[KEY]):
                raise wrong
            yield done / total, day, rows, raw
            done += len(rows)


def _cut(paths: list[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read a day's rows in tables of `PIECE` rows; the last is smaller, or empty if no rows."""
    waiting: pa.Table | None = None
    for path in paths:
        with pq.ParquetFile(path) as file:
            if waiting is None:
                waiting = file.schema_arrow.empty_table()
                waiting = waiting if columns is None else waiting.select(columns)
            for group in range(file.num_row_groups):
                read = file.read_row_group(group, columns=columns)
                waiting = pa.concat_tables([waiting, read.select(waiting.column_names)])
                while len(waiting) >= PIECE:
                    yield waiting.slice(0, PIECE)
                    waiting = waiting.slice(PIECE)
    if waiting is not None and (len(waiting) or not _count(paths)):
        yield waiting


def _count(paths: list[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _needed(path: Path, slices: tuple[str, ...]) -> list[str]:
    present = pq.read_schema(path).names
    return [name for name in dict.fromkeys((KEY, TRUTH, *slices)) if name in present]


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    values: npt.NDArray[np.generic] = column.to_numpy()
    return values


def _by_day(paths: list[Path]) -> dict[str, list[Path]]:
    """Group files by day: sampling and featurization split a day into files differently."""
    days: dict[str, list[Path]] = {}
    for path in paths:
        days.setdefault(path.parent.name, []).append(path)
    return days
