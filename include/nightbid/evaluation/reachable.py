"""Decomposition of the log loss into avoidable and unavoidable parts, with a simulator's truth.

Losses are expected values over draws of the labels with true probabilities p:
-p·log q - (1 - p)·log(1 - q), averaged by weight. The predictions q use less and less knowledge:

    noise      q = p: only the draw of the labels is unknown
    position   everything except the position, which is decided after ranking: the mean of p over
               the positions of all rows
    hidden     also without hidden effects of users, brands and ads that no column contains: each
               has a normal posterior from the labels of the rows before the evaluate days, given
               everything else; q is the mean of p over it
    model      the candidate's predictions

The effects of logged columns count as known, and the posterior of each hidden effect takes the
other effects as known. With more and more rows, a model's loss approaches this bound, and falls
below it only by chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.hidden import KEYS, POSITION, HiddenEffects
from nightbid.evaluation.metrics import constant_scores
from nightbid.evaluation.rows import EvaluationRows
from nightbid.evaluation.scores import Floats
from nightbid.night.task import StageTask
from nightbid.schema import KEY, LABEL, TRUTH, WEIGHT, split_files

EARLIER = ("history", "train", "validate")
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
"""Gauss-Hermite nodes and weights for means over a standard normal, up to the weights' sum."""
TINY = 1e-12
SUMS = ("score", "information", "variance")


def reachable(task: StageTask, rows: EvaluationRows, base_rate: float) -> dict[str, Any] | None:
    """Decompose the expected log loss of the candidate.

    Args:
        task: Evaluation task.
        rows: Evaluate rows with the scores of all models.
        base_rate: Prediction of the constant model.

    Returns:
        `losses`: expected log losses by name, of every model and of the best predictions `truth`,
        `position` (without it) and `hidden` (without both). `parts` of the candidate's loss: noise,
        position, hidden and model, which add up to it, and `share`, its part of the gain of
        `hidden` over the constant prediction. `shares`: the same for the other models. None if
        the effects behind the truth are unknown.
    """
    spec = task.spec
    if rows.truth is None or not isinstance(spec.source, SimulatorSource):
        return None
    if (spec.label.column, spec.label.given, spec.label.kind) != ("click", None, "binary"):
        return None
    if spec.sampling.frozen:  # Frozen rows may come from another simulated exchange.
        return None
    effects = HiddenEffects(spec.source)
    sample = task.inputs["sample"].path
    evaluate = _columns(sample, "evaluate", (KEY, POSITION, *KEYS))
    keys = evaluate[KEY].to_numpy()
    scored = np.isin(keys, rows.keys)
    if not np.array_equal(keys[scored], rows.keys):
        return None
    evaluate = evaluate.filter(pa.array(scored))
    try:
        without_position, without_both = _predictions(
            rows.truth, evaluate, sample, effects, ranked=not spec.position_inputs()
        )
    except ValueError:  # Ids are hashed, or an injected fault replaced them.
        return None
    predictions = {
        "truth": rows.truth,
        "position": without_position,
        "hidden": without_both,
        "constant": constant_scores(base_rate, len(rows)),
        **rows.scores,
    }
    losses = {
        name: expected_log_loss(rows.truth, prediction, rows.weights)
        for name, prediction in predictions.items()
    }
    most = losses["constant"] - losses["hidden"]
    shares = {
        name: (losses["constant"] - losses[name]) / most if most > 0 else None
        for name in rows.scores
    }
    parts = {
        "noise": losses["truth"],
        "position": losses["position"] - losses["truth"],
        "hidden": losses["hidden"] - losses["position"],
        "model": losses["candidate"] - losses["hidden"],
        "share": shares.pop("candidate"),
    }
    return {"losses": losses, "parts": parts, "shares": shares}


def expected_log_loss(truth: Floats, predicted: Floats, weights: Floats) -> float:
    """Average the log loss over rows and over draws of their labels; all arrays are [rows]."""
    q = np.clip(predicted, TINY, 1 - TINY)
    losses = -(truth * np.log(q) + (1 - truth) * np.log1p(-q))
    return float(weights @ losses / weights.sum())


def _predictions(
    truth: Floats, evaluate: pa.Table, sample: Path, effects: HiddenEffects, *, ranked: bool
) -> tuple[Floats, Floats]:
    """Best predictions without the position, and without hidden effects as well; [rows] each."""
    p = np.clip(truth, TINY, 1 - TINY)
    logits = np.log(p) - np.log1p(-p)
    shift, share = np.zeros(1), np.ones(1)
    if ranked:
        position_effect, shift, share = _position(evaluate, effects)
        logits = logits - position_effect
    without_position = _mean(logits, np.zeros(len(logits)), shift, share)
    uncertain = np.zeros(len(logits))
    for name, known in _evidence(sample).items():
        effect, mean, variance = _posterior(name, evaluate[name], known, effects)
        logits = logits - effect + mean
        uncertain += variance
    return without_position, _mean(logits, np.sqrt(uncertain), shift, share)


def _position(evaluate: pa.Table, effects: HiddenEffects) -> tuple[Floats, Floats, Floats]:
    """Return the effect of each row's position, and the effect and share of each position."""
    codes, values = _coded(evaluate[POSITION])
    shift = effects.of(POSITION, values)
    return shift[codes], shift, np.bincount(codes, minlength=len(shift)) / len(codes)


def _mean(logits: Floats, spread: Floats, shift: Floats, share: Floats) -> Floats:
    """Average probabilities over positions and normally distributed logits; [rows]."""
    total = np.zeros(len(logits))
    nodes = zip(NODES, NODE_WEIGHTS / NODE_WEIGHTS.sum(), strict=True)
    for node, weight in nodes if spread.any() else ((0.0, 1.0),):
        for offset, part in zip(shift, share, strict=True):
            total += weight * part / (1 + np.exp(-logits - offset - node * spread))
    return total


def _evidence(sample: Path) -> dict[str, pa.Table]:
    """Summarize the evidence of earlier rows' labels about each key's effect.

    The sums are the score of the effect at the truth, its information, and the variance of the
    score; the last two differ if rows have weights.
    """
    parts: dict[str, list[pa.Table]] = {name: [] for name in KEYS}
    for split in EARLIER:
        for path in split_files(sample, split):
            table = pq.read_table(path, columns=[LABEL, WEIGHT, TRUTH, *KEYS], partitioning=None)
            y, w, p = (table[name].to_numpy().astype(float) for name in (LABEL, WEIGHT, TRUTH))
            information = w * p * (1 - p)
            sums = dict(
                zip(SUMS, map(pa.array, (w * (y - p), information, w * information)), strict=True)
            )
            for name, tables in parts.items():
                tables.append(_summed(pa.table({"key": _texts(table[name]), **sums})))
    return {name: _summed(pa.concat_tables(tables)) for name, tables in parts.items() if tables}


def _summed(table: pa.Table) -> pa.Table:
    # With several threads, the order of additions, and so the last bit, would vary.
    by_key = table.group_by("key", use_threads=False)
    grouped = by_key.aggregate([(name, "sum") for name in SUMS])
    return grouped.select(["key", *(f"{name}_sum" for name in SUMS)]).rename_columns(["key", *SUMS])


def _posterior(
    name: str, column: pa.ChunkedArray, known: pa.Table, effects: HiddenEffects
) -> tuple[Floats, Floats, Floats]:
    """Return true effects of each row's key, and mean and variance of their posterior.

    With prior N(μ, s²) and an estimate t + score/information of variance v, the estimate's weight
    is k = s² / (s² + v), and the posterior N(μ + k·(estimate - μ), s²·(1 - k)).
    """
    codes, values = _coded(column)
    true = effects.of(name, values)
    everybody = effects.of(name, known["key"].combine_chunks())
    middle, prior = float(everybody.mean()), float(everybody.var())
    place = pc.index_in(values, known["key"].combine_chunks())
    seen = place.is_valid().to_numpy(zero_copy_only=False)
    at = pc.fill_null(place, 0).to_numpy(zero_copy_only=False)
    score, information, variance = (known[figure].to_numpy()[at] for figure in SUMS)
    information = np.maximum(information, TINY)
    trust = np.where(seen, prior / (prior + variance / information**2 + TINY), 0.0)
    mean = middle + trust * (true + score / information - middle)
    return true[codes], mean[codes], (prior * (1 - trust))[codes]


def _columns(sample: Path, split: str, names: tuple[str, ...]) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(path, columns=list(names), partitioning=None)
        for path in split_files(sample, split)
    )


def _coded(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Return codes, [rows], and the distinct values as strings."""
    encoded = pc.dictionary_encode(_texts(column).combine_chunks(), null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())
