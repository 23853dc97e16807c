"""Off-policy evaluation in a run: estimates the label rate if the models had chosen the items.

For each evaluate row all items that could have been shown are scored, the scores define a policy,
and `nightbid.bidding.policies` estimates its value from the logged propensities. Models are trained
on earlier days, so their predictions are independent of the evaluated rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.bidding.candidates import Offers, ScoreRows, belonging, latest_values, score_all
from nightbid.bidding.checks import Bools, Floats, Ints
from nightbid.bidding.policies import Estimate, PolicyValue, difference, evaluate
from nightbid.column_parsing import whole
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.policy import Policy
from nightbid.counts import counted
from nightbid.differences import with_interval
from nightbid.errors import ConfigError, CorruptDataError, DataError, MissingDataError
from nightbid.night.task import StageTask
from nightbid.number_parsing import numbers
from nightbid.schema import CANDIDATES_TRUTH, KEY, LABEL, TIME, USER, split_files

DAY = 86_400_000_000
TINY = 1e-7
MOST_PAIRS = 20_000_000
"""Maximum number of (row, item) pairs to score, which takes minutes of CPU time."""
TOLERATED = 0.01
"""Maximum share of rows without a usable propensity."""


def policy_value(task: StageTask) -> dict[str, Any]:
    """Estimate the value of the candidate's and the champion's policy; writes `policy.parquet`.

    Returns:
        The `policy` block of the manifest's metrics.

    Raises:
        MissingDataError: There are no evaluate rows, or a column is missing.
        CorruptDataError: More than 1% of the rows have no usable propensity.
    """
    spec, settings = task.spec, task.spec.policy
    assert settings is not None
    table, unusable, sampled = _rows(task)
    item = spec.columns.item
    assert item is not None
    listed = spec.columns.candidates
    shown = table[item].cast(pa.string())
    offers = Offers.of(shown, table[listed] if listed else None)
    if len(offers.codes) > MOST_PAIRS:
        raise ConfigError(
            f"{counted(len(table), 'row')} with every one of {counted(len(offers.items), 'item')}:"
            f" {len(offers.codes):,} predictions",
            where="policy",
            hint="name the items that could be shown in columns.candidates, or lower"
            " policy.most_rows",
        )
    time = np.asarray(table[TIME].cast(pa.int64()))
    columns = settings.item_columns
    if columns is None:
        columns = belonging(table, item, time // DAY, _read_by_features(spec))
    sample = task.inputs["sample"].path
    columns = tuple(
        column for column in dict.fromkeys((*columns, item)) if column in table.column_names
    )
    values, unknown = latest_values(sample, item, columns, offers.items)
    values = values.select(list(columns)).set_column(
        columns.index(item), item, offers.items.cast(table[item].type)
    )
    scores = score_all(table, offers, values, _models(task), lambda share: task.progress(
        0.7 + 0.25 * share, f"scoring {counted(len(offers.items), 'item')}"
    ))  # fmt: skip
    rows = _LoggedRows(table, offers, spec)
    outcomes = {name: rows.value(score, settings) for name, score in scores.items()}
    _save(task, rows, {name: rows.choices(score, settings) for name, score in scores.items()})
    values_of = {
        name: outcome for name, outcome in outcomes.items() if isinstance(outcome, PolicyValue)
    }
    policies = {name: _summary(outcome) for name, outcome in outcomes.items()}
    for name, score in scores.items():
        if rows.truth is not None:
            chance = probabilities(offers, score, settings)
            policies[name]["truth"] = float(offers.sums(chance * rows.truth).mean())
    against = None
    if {"candidate", "champion"} <= values_of.keys():
        against = _plain(difference(values_of["candidate"], values_of["champion"], "dr"))
    return {
        "settings": settings.model_dump(mode="json"),
        "rows": len(table),
        "sampled_of": sampled,
        "items": len(offers.items),
        "unknown_items": unknown,
        "pairs": len(offers.codes),
        "item_columns": [column for column in columns if column != item],
        "unusable": unusable,
        "logged": _plain(rows.logged),
        "policies": policies,
        "candidate_less_champion": against,
    }


def policy_sentence(metrics: dict[str, Any]) -> str:
    """Summarize the value of the candidate's policy in a clause."""
    candidate = metrics["policies"]["candidate"]
    if "refused" in candidate:
        return f"no value of the policy: {candidate['refused']}"
    value, gain = candidate["estimates"]["dr"]["value"], candidate["gains"]["dr"]
    return f"policy {value:.4f} a row by DR ({with_interval(gain)} against the logged choices)"


def probabilities(offers: Offers, scores: Floats, settings: Policy) -> Floats:
    """[pairs], probability that the policy shows each item; sums to 1 per row."""
    starts = offers.edges[:-1]
    best = np.maximum.reduceat(scores, starts)[offers.row]
    if settings.kind == "greedy":
        top = (scores == best).astype(np.float64)
        share = 1 / np.diff(offers.edges)[offers.row]
        greedy = (1 - settings.epsilon) * top / offers.sums(top)[offers.row]
        return np.asarray(greedy + settings.epsilon * share)
    odds = _logits(scores) - _logits(best)
    weight = np.exp(odds / settings.temperature)
    return np.asarray(weight / offers.sums(weight)[offers.row])


def _logits(p: Floats) -> Floats:
    p = np.clip(p, TINY, 1 - TINY)
    return np.asarray(np.log(p) - np.log1p(-p), np.float64)


class _LoggedRows:
    """Usable rows in the form that the estimators take."""

    def __init__(self, table: pa.Table, offers: Offers, spec: PipelineSpec) -> None:
        assert spec.columns.propensity is not None
        self.offers = offers
        self.reward = numbers(table[LABEL])
        self.propensity = numbers(table[spec.columns.propensity])
        self.users: Ints = np.asarray(table[USER]).astype(np.int64)
        groups = np.unique(self.users, return_inverse=True)[1]
        self.logged = _mean(self.reward, groups)
        self.truth: Floats | None = None
        if spec.columns.candidates and CANDIDATES_TRUTH in table.column_names:
            self.truth = numbers(whole(table[CANDIDATES_TRUTH]).flatten())

    def choices(self, scores: Floats, settings: Policy) -> dict[str, Floats]:
        """[rows] each: probability and prediction of the logged item, expected prediction."""
        offers, chance = self.offers, probabilities(self.offers, scores, settings)
        shown = offers.is_logged.astype(np.float64)
        return {
            "chance": offers.sums(chance * shown),
            # All entries of an item that is listed twice have the same prediction.
            "predicted": offers.sums(scores * shown) / offers.sums(shown),
            "expected": offers.sums(chance * scores),
        }

    def value(self, scores: Floats, settings: Policy) -> PolicyValue | str:
        """Return the estimates, or the reason why there are none."""
        chosen = self.choices(scores, settings)
        try:
            return evaluate(
                self.reward,
                self.propensity,
                np.minimum(chosen["chance"], 1.0),
                predicted=chosen["predicted"],
                predicted_policy=chosen["expected"],
                users=self.users,
                switch=settings.switch,
                shrinkage=settings.shrinkage,
                least_ess=settings.least_rows,
            )
        except DataError as refusal:
            return str(refusal)


def _rows(task: StageTask) -> tuple[pa.Table, dict[str, int], int]:
    """Rows with usable propensities, number of rows left out by reason, rows before sampling."""
    roles, settings = task.spec.columns, task.spec.policy
    assert settings is not None
    assert roles.propensity is not None
    assert roles.item is not None
    paths = split_files(task.inputs["sample"].path, "evaluate")
    tables = [pq.read_table(path, partitioning=None) for path in paths]
    table = pa.concat_tables(tables, promote_options="permissive") if tables else None
    if table is None or not len(table):
        raise MissingDataError(
            "there are no evaluate rows", where="policy", hint="use a date that has impressions"
        )
    for name in filter(None, (roles.propensity, roles.item, roles.candidates)):
        if name not in table.column_names:
            raise MissingDataError(
                f"there is no column {name!r}",
                where="policy",
                hint="correct `columns` of the pipeline, or the logs",
            )
    total = len(table)
    if total > settings.most_rows:
        # Keys are hashes, so the smallest ones are a reproducible random sample.
        keys = np.asarray(table[KEY]).view(np.uint64)
        limit = np.partition(keys, settings.most_rows - 1)[settings.most_rows - 1]
        table = table.filter(pa.array(keys <= limit))
    propensity = numbers(table[roles.propensity])
    reasons = {
        f"{roles.propensity} is missing": np.isnan(propensity),
        f"{roles.propensity} is 0 or less": propensity <= 0,
        f"{roles.propensity} is above 1": propensity > 1,
        f"{roles.item} is missing": np.asarray(table[roles.item].is_null()),
    }
    if roles.candidates:
        reasons[f"{roles.item} is not among {roles.candidates}"] = ~_among(
            table[roles.item], table[roles.candidates], roles.candidates
        )
    bad = np.zeros(len(table), np.bool_)
    counts = {}
    for reason, mask in reasons.items():
        if count := int((mask & ~bad).sum()):
            counts[reason] = count
        bad |= mask
    if bad.mean() > TOLERATED:
        listed = ", ".join(
            f"{reason} ({counted(count, 'row')})" for reason, count in counts.items()
        )
        raise CorruptDataError(
            f"{int(bad.sum()):,} of {counted(len(bad), 'evaluate row')} cannot be used for a"
            f" policy: {listed}",
            where="policy",
            hint=f"correct the logs or `columns`; {TOLERATED:.0%} is tolerated",
        )
    return table.filter(pa.array(~bad)), counts, total


def _among(item: pa.ChunkedArray, candidates: pa.ChunkedArray, name: str) -> Bools:
    lists = whole(candidates)
    if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
        raise CorruptDataError(
            f"it holds {lists.type}, not lists of items",
            where=f"columns.candidates {name}",
            hint="name a column with the items that could have been shown, or remove it",
        )
    offers = Offers.of(pc.fill_null(item.cast(pa.string()), ""), candidates)
    return np.asarray(offers.sums(offers.is_logged.astype(np.float64)) > 0)


def _read_by_features(spec: PipelineSpec) -> tuple[str, ...]:
    """Columns that served features read and that may belong to the item."""
    roles = spec.columns
    never = {roles.user, roles.time, roles.key, roles.position, roles.item}
    names = [
        column
        for name, feature in spec.features.items()
        if not feature.training_only
        for column in feature.served(name)
    ]
    return tuple(column for column in dict.fromkeys(names) if column not in never)


def _models(task: StageTask) -> dict[str, ScoreRows]:
    from nightbid.features.fitted import FittedFeatures
    from nightbid.models.predict import load_model
    from nightbid.serving.bundle import Bundle

    fitted = FittedFeatures.load(task.inputs["featurize"].path / "fitted")
    model = load_model(task.inputs["train"].path / "model")
    models: dict[str, ScoreRows] = {"candidate": lambda raw: model.predict(fitted.transform(raw))}
    if "champion" in task.inputs:
        bundle = Bundle.load(task.inputs["champion"].path, judged=True)
        features = bundle.fitted.with_history(fitted)
        models["champion"] = lambda raw: bundle.predict(features.transform(raw))
    return models


def _mean(values: Floats, groups: Ints) -> Estimate:
    return Estimate.of(float(values.mean()), values - values.mean(), groups)


def _plain(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _summary(outcome: PolicyValue | str) -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"refused": outcome}
    return {
        "estimates": {name: _plain(estimate) for name, estimate in outcome.estimates.items()},
        "gains": {name: _plain(outcome.gain(name)) for name in outcome.estimates},
        "effective_sample_size": outcome.effective_sample_size,
        "mean_weight": outcome.mean_weight,
        "largest_weight": outcome.largest_weight,
    }


def _save(task: StageTask, rows: _LoggedRows, chosen: dict[str, dict[str, Floats]]) -> None:
    columns: dict[str, Any] = {
        "click": rows.reward, "propensity": rows.propensity, "user": rows.users,
    }  # fmt: skip
    for name, choices in chosen.items():
        columns |= {name: choices["chance"], f"{name}_predicted": choices["predicted"],
                    f"{name}_expected": choices["expected"]}  # fmt: skip
    pq.write_table(pa.table(columns), task.output / "policy.parquet", compression="zstd")
