"""Row-by-row comparison of two runs, from the scores that their evaluations kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nightbid.counts import counted
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.evaluation.bootstrap import Difference, Resampling, replicate
from nightbid.evaluation.metrics import summary
from nightbid.evaluation.scores import Floats, Ints, ScoreTable
from nightbid.evaluation.value_metrics import FIGURES, ValueRows, figures, replicate_values
from nightbid.schema import KEY, LABEL, USER, WEIGHT

COMPARED = ("auc", "normalized_entropy", "log_loss", "calibration")


@dataclass(frozen=True)
class KeptScores:
    """Scores that one evaluation kept: rows in canonical order with the candidate's scores."""

    keys: Ints
    users: Ints
    labels: Floats
    weights: Floats
    scores: Floats
    """[rows] predictions of the run's candidate."""

    @classmethod
    def load(cls, folder: Path) -> KeptScores:
        """Load the scores from an evaluate stage's output folder.

        Raises:
            MissingDataError: The evaluation kept no scores.
        """
        files = sorted((folder / "scores").glob("part-*.parquet"))
        if not files:
            raise MissingDataError(
                "this evaluation kept no scores",
                where=folder.name,
                hint="run it with evaluate.keep_scores: true",
            )
        names = [KEY, USER, LABEL, WEIGHT, "candidate"]
        table = pq.read_table(files, columns=names, partitioning=None)
        return cls(
            keys=table[KEY].to_numpy().astype(np.int64),
            users=table[USER].to_numpy().astype(np.int64),
            labels=table[LABEL].to_numpy().astype(np.float64),
            weights=table[WEIGHT].to_numpy().astype(np.float64),
            scores=table["candidate"].to_numpy().astype(np.float64),
        )


def paired(
    first: KeptScores, second: KeptScores, *, replicates: int, seed: int
) -> dict[str, Difference]:
    """Compute the second candidate's metrics minus the first's, paired over users.

    Args:
        first: Scores of the reference run.
        second: Scores of the run to compare.
        replicates: Number of bootstrap replicates over users.
        seed: Seed of the bootstrap.

    Raises:
        CorruptDataError: The rows differ.
    """
    _check_same(first, second)
    models = {"first": first.scores, "second": second.scores}
    drawn = replicate(
        Resampling.of(first.users, replicates, seed),
        first.labels,
        first.weights,
        first.users,
        models,
    )
    figures = {
        name: dict(summary(ScoreTable.of(first.labels, scores, first.weights)))
        for name, scores in models.items()
    }
    differences = {}
    for figure in COMPARED:
        one, two = figures["first"][figure], figures["second"][figure]
        value = None if one is None or two is None else float(two) - float(one)  # type: ignore[arg-type]
        differences[figure] = drawn["second"].difference(drawn["first"], figure, value)
    return differences


def paired_values(
    first: KeptScores, second: KeptScores, *, replicates: int, seed: int
) -> dict[str, Difference]:
    """Compare models of values by their own metrics; see `paired`."""
    _check_same(first, second)
    rows = ValueRows(first.labels, first.weights, first.users)
    models = {"first": first.scores, "second": second.scores}
    drawn = replicate_values(Resampling.of(first.users, replicates, seed), rows, models)
    one, two = (figures(rows, scores) for scores in models.values())
    differences = {}
    for figure in FIGURES:
        left, right = one[figure], two[figure]
        value = None if left is None or right is None else right - left
        differences[figure] = drawn["second"].difference(drawn["first"], figure, value)
    return differences


def _check_same(first: KeptScores, second: KeptScores) -> None:
    same = len(first.keys) == len(second.keys) and (
        np.array_equal(first.keys, second.keys)
        and np.array_equal(first.users, second.users)
        and np.array_equal(first.labels, second.labels)
        and np.array_equal(first.weights, second.weights)
    )
    if not same:
        raise CorruptDataError(
            f"{len(first.keys):,} and {counted(len(second.keys), 'row')}, which are not the same",
            where="kept scores",
            hint="compare runs whose evaluate rows have the same digest",
        )
