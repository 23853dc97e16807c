"""Replays each model's predictions as bids on the auctions of a night's evaluate rows."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats, probabilities
from nightbid.bidding.logs import LoggedAuctions, price_ratio, read_auctions
from nightbid.bidding.money import Earnings, compare
from nightbid.bidding.replay import AuctionResults, replay
from nightbid.bidding.strategies.choose import in_units, price_unit
from nightbid.bidding.strategies.pacing import DualPacing
from nightbid.bidding.strategies.shading import Shading
from nightbid.config.replay import Replay
from nightbid.counts import counted
from nightbid.differences import with_interval
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.night.manifest import RowCounts
from nightbid.night.task import Outcome, StageTask
from nightbid.schema import KEY, split_files

MODELS = ("candidate", "champion", "baseline")
TRUTH = "truth"
STEP = 5e-4
"""Step size of pacing with many auctions."""
SMALL_STEP = 0.12
"""Step size of pacing times √auctions, if these are few: `STEP` would be too small for one day."""


def replay_night(task: StageTask, settings: Replay) -> Outcome:
    """Replay every model's bids on the same auctions.

    Raises: see `nightbid.bidding.stage.run`.
    """
    sample = task.inputs["sample"].path
    task.progress(0.1, "reading prices")
    read = partial(
        read_auctions, sample, columns=task.spec.columns, tolerated=settings.unusable,
        floor=settings.floor,
    )  # fmt: skip
    earlier = read("validate")
    logged = read("evaluate", currency=earlier.currency)
    ratio = price_ratio(logged.auctions, earlier.auctions)
    logged, scores = _scores(task, logged)
    task.progress(0.4, "replaying")
    auctions = logged.auctions
    if auctions.true_probability is not None:
        scores[TRUTH] = auctions.true_probability
    earned = {name: _bid(settings, logged, earlier, score) for name, score in scores.items()}
    task.progress(0.7, "intervals")
    assert auctions.user is not None
    users = auctions.user.view(np.int64)
    compared = compare(
        earned, users, days=auctions.day, replicates=task.spec.evaluate.bootstrap,
        seed=task.spec.seed,
    )  # fmt: skip
    reference = "champion" if "champion" in scores else "baseline"
    metrics: dict[str, Any] = {
        "replayed": True,
        "rules": settings.model_dump(mode="json"),
        "auctions": len(auctions),
        "unusable": dict(logged.unusable),
        "unusable_share": 1 - len(auctions) / len(logged.rows),
        "price_ratio": ratio,
        "reference": reference,
        **compared,
    }
    (task.output / "replay.json").write_text(json.dumps(metrics, indent=1, sort_keys=True))
    _save(task, logged, scores)
    return Outcome(
        rows=RowCounts(
            read=len(logged.rows),
            written=len(auctions),
            dropped=len(logged.rows) - len(auctions),
        ),
        metrics=metrics,
        summary=_sentence(metrics),
    )


def _scores(task: StageTask, logged: LoggedAuctions) -> tuple[LoggedAuctions, dict[str, Floats]]:
    """Return the auctions that were scored and each model's predictions, in the same order."""
    folder = task.inputs["evaluate"].path
    files = sorted((folder / "scores").glob("part-*.parquet"))
    if not files:
        raise MissingDataError(
            "the evaluation kept no scores", where="replay", hint="set evaluate.keep_scores: true"
        )
    table = pq.read_table(files, partitioning=None)
    keys = pa.concat_tables(
        [
            pq.read_table(path, columns=[KEY], partitioning=None)
            for path in split_files(task.inputs["sample"].path, "evaluate")
        ]
    )
    scored = pc.is_in(keys[KEY], value_set=table[KEY].combine_chunks())
    if not keys[KEY].filter(scored).equals(table[KEY]):
        raise CorruptDataError(
            f"{counted(keys.num_rows, 'sampled row')} and {counted(table.num_rows, 'scored row')}"
            " are not the same",
            where="replay",
            hint="rerun the night from `sample`",
        )
    # The evaluation leaves out rows without a score of a logged baseline, and those of users whose
    # rows would not fit in memory.
    known = np.asarray(scored)
    place = np.cumsum(known) - 1
    logged = logged.among(known, "not evaluated")
    return logged, {
        name: probabilities(name, table[name].to_numpy())[place[logged.order]]
        for name in MODELS
        if name in table.column_names
    }


def _bid(
    settings: Replay, logged: LoggedAuctions, earlier: LoggedAuctions, scores: Floats
) -> Earnings:
    """Bid the value of each row by one model's predictions."""
    worth = settings.value * (np.ones(len(scores)) if logged.value is None else logged.value)
    auctions = logged.auctions
    rules = Rules(
        settings.pricing,
        settings.wins,
        per=settings.per,
        budget=None if settings.budget is None else settings.budget * settings.per,
    )
    # Before the event, a bidder knows only its mean value.
    expected = settings.value * _mean_value(earlier)
    unit = price_unit(earlier.auctions.price)
    scaled, rules = in_units(auctions, rules, unit)
    before, _ = in_units(earlier.auctions, rules, unit)
    result = _run(scaled, before, rules, scores, expected)
    return Earnings.of(scaled, result, value=worth, expected=expected, per=rules.per)


def _run(
    auctions: Auctions, earlier: Auctions, rules: Rules, scores: Floats, value: float
) -> AuctionResults:
    effective = scores
    if rules.pricing == "first":
        shading = Shading.of_prices(
            earlier.price, value, most_pctr=float(scores.max()), rules=rules
        )
        bids = shading.bids(scores)
        if rules.budget is None:
            return replay(auctions, bids, rules)
        # Pacing is defined for values; here it scales the shaded bids.
        effective = bids / (rules.per * value)
    elif rules.budget is None:
        return replay(auctions, rules.per * value * scores, rules)
    return _paced(auctions, earlier, rules, effective, value)


def _paced(
    auctions: Auctions, earlier: Auctions, rules: Rules, effective: Floats, value: float
) -> AuctionResults:
    """Spend the budget evenly, from a multiplier that fits it to the prices of earlier days.

    Earlier rows have no predictions, so they get some of these rows' predictions at random.
    """
    assert rules.budget is not None
    drawn = np.random.default_rng(0).choice(effective, len(earlier))
    known = replace(rules, budget=rules.budget * len(earlier) / len(auctions))
    step = max(STEP, SMALL_STEP / np.sqrt(len(auctions)))
    pacing = DualPacing.fit(earlier, drawn, known, value, step=float(step))
    return pacing.run(auctions, effective, rules)


def _mean_value(earlier: LoggedAuctions) -> float:
    """Mean of `columns.value` over the positive rows of earlier days; 1 without the column."""
    if earlier.value is None:
        return 1.0
    positive = earlier.value[earlier.auctions.click == 1]
    return float(positive.mean()) if len(positive) else float(earlier.value.mean())


def _save(task: StageTask, logged: LoggedAuctions, scores: dict[str, Floats]) -> None:
    auctions = logged.auctions
    columns = {
        "price": auctions.price, "click": auctions.click, "floor": auctions.floor,
        "hour": auctions.hour, "user": auctions.user, "day": auctions.day,
        "value": logged.value, "conversion": auctions.conversion, **scores,
    }  # fmt: skip
    table = pa.table(
        {name: pa.array(column) for name, column in columns.items() if column is not None}
    )
    pq.write_table(table, task.output / "auctions.parquet", compression="zstd")


def _sentence(metrics: dict[str, Any]) -> str:
    bidders, reference = metrics["bidders"], metrics["reference"]
    name = surplus_name(metrics)
    sentence = f"surplus {bidders['candidate'][name]:,.2f}"
    gain = metrics["differences"].get(reference, {}).get(name)
    if gain:
        sentence += f" ({with_interval(gain, ',.2f')} against the {reference})"
    sentence += f" on {counted(metrics['auctions'], 'auction')}"
    won = {bidder["win_rate"] for bidder in (bidders["candidate"], bidders[reference])}
    if won in ({0.0}, {1.0}):
        which = "every" if won == {1.0} else "no"
        sentence += (
            f"; both win {which} auction, so they cannot differ: are replay.value and prices in the"
            " same unit, and is replay.per the number of impressions of a price?"
        )
    return sentence


def surplus_name(metrics: dict[str, Any]) -> str:
    """Name of the surplus to compare: the expected one if true probabilities are known."""
    known = "expected_surplus" in metrics["bidders"]["candidate"]
    return "expected_surplus" if known else "surplus"
