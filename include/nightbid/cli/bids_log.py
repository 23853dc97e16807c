"""Read logged auctions for `nightbid bids`, replay them and print the earnings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from rich.table import Table

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats, probabilities
from nightbid.bidding.logs import other_currency, price_ratio
from nightbid.bidding.money import Earnings, compare
from nightbid.bidding.replay import replay
from nightbid.bidding.strategies import Truthful
from nightbid.bidding.strategies.choose import NAMES, fit, in_units, price_unit
from nightbid.cli.bids_files import read_log, read_numbers, require_columns, units
from nightbid.cli.output import print_json, terminal
from nightbid.counts import are, counted
from nightbid.differences import with_interval
from nightbid.errors import ConfigError, CorruptDataError, DataError

console = terminal()
REPLICATES = 200
DASH = "–"


@dataclass(frozen=True)
class LogColumns:
    """Names of the columns of a log; empty: the log has no such column."""

    price: str
    click: str
    floor: str = ""
    user: str = ""
    truth: str = ""
    header: str = ""
    """Column names in order, separated by commas, for text files without a header."""
    bid: str = ""
    """Column with the bid of the logging bidder; a log with rows that contradict it is refused."""
    conversion: str = ""
    currency: str = ""
    day: str = ""


def replay_strategies(
    log: Path,
    train: Path | None,
    columns: LogColumns,
    pctr: str,
    strategies: tuple[str, ...],
    *,
    value: float,
    cost_per_click: float | None,
    roi: float | None,
    per: float,
    budget: float | None,
    pricing: str,
    wins: str,
    rounding: str,
    as_json: bool = False,
) -> None:
    """Fit strategies on one log and replay them on another; print a column per strategy.

    Raises:
        NightbidError: A file, column or value is wrong, or a strategy lacks a required input.
    """
    rules = _rules(pricing, wins, rounding, budget, per)
    _check_value(value)
    if unknown := [strategy for strategy in strategies if strategy not in NAMES]:
        raise ConfigError(
            f"there is no strategy {unknown[0]!r}", hint=f"use one of {', '.join(NAMES)}"
        )
    fitted = [strategy for strategy in strategies if strategy != "truthful"]
    if fitted and train is None:
        raise ConfigError(
            f"{', '.join(fitted)} must be fitted", hint="pass earlier auctions with --train"
        )
    if train is None:
        auctions, scores, _ = _load(log, columns, (pctr,))
        earlier, past = auctions, scores
    else:
        earlier, past, currency = _load(train, columns, (pctr,))
        auctions, scores, _ = _load(log, columns, (pctr,), currency)
        price_ratio(auctions, earlier, str(log))
    # Landscapes count prices as whole numbers, so prices must be in a small unit.
    unit = 1.0 if rounding == "down" or not fitted else price_unit(earlier.price)
    sentence = _sentence(rules, value, budget, per)
    auctions, rules = in_units(auctions, rules, unit)
    earlier, _ = in_units(earlier, rules, unit)
    scale = len(earlier) / len(auctions)
    known = replace(rules, budget=None if rules.budget is None else rules.budget * scale)
    earned = {}
    for name in dict.fromkeys(strategies):
        bidder = fit(
            name, earlier, past[pctr], known, value_per_click=value,
            cost_per_click=cost_per_click, roi=roi, most_pctr=float(scores[pctr].max()),
        )  # fmt: skip
        result = bidder.run(auctions, scores[pctr], rules)
        earned[name] = Earnings.of(auctions, result, value=value, per=rules.per)
    _show(auctions, earned, sentence, as_json=as_json)


def compare_predictions(
    log: Path,
    columns: LogColumns,
    pctr: tuple[str, ...],
    *,
    value: float,
    per: float,
    budget: float | None,
    pricing: str,
    wins: str,
    rounding: str,
    as_json: bool = False,
) -> None:
    """Bid the expected value by several predictions on the same auctions; print a column for each.

    Raises:
        NightbidError: A file, column or value is wrong.
    """
    if len(pctr) < 2:
        raise ConfigError(
            f"{len(pctr)} column of predictions to compare", hint="pass --pctr at least twice"
        )
    rules = _rules(pricing, wins, rounding, budget, per)
    _check_value(value)
    auctions, scores, _ = _load(log, columns, pctr)
    earned = {}
    for name in pctr:
        result = replay(auctions, Truthful(value, per).bids(scores[name]), rules)
        earned[name] = Earnings.of(auctions, result, value=value, per=per)
    _show(auctions, earned, _sentence(rules, value, budget, per), as_json=as_json)


def _rules(pricing: str, wins: str, rounding: str, budget: float | None, per: float) -> Rules:
    return Rules(
        pricing,  # type: ignore[arg-type]
        wins,  # type: ignore[arg-type]
        rounding,  # type: ignore[arg-type]
        per,
        None if budget is None else budget * per,
    )


def _check_value(value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ConfigError(
            f"--value: the value of a click is {value:g}", hint="pass an amount of money above 0"
        )


def _sentence(rules: Rules, value: float, budget: float | None, per: float) -> str:
    limit = "no budget" if budget is None else f"budget {budget:,.2f}"
    cut = ", bids rounded down to whole units" if rules.rounding == "down" else ""
    return (
        f"{rules.pricing} price, bid {rules.wins} price{cut}, "
        f"{limit}, {value:g} a click, prices per {per:,.0f}"
    )


def _load(
    path: Path, columns: LogColumns, pctr: tuple[str, ...], currency: str = ""
) -> tuple[Auctions, dict[str, Floats], str]:
    """Load the auctions, each column of predictions, and the currency if it is logged.

    Args:
        path: Path of the log.
        columns: Names of the columns of the log.
        pctr: Names of the columns with predictions.
        currency: Currency of the earlier auctions; empty: the most frequent one of the log.
    """
    names = [columns.user, columns.day, columns.currency]
    frame = read_log(path, columns.header, names)
    numbers = [
        columns.price, columns.click, columns.floor, columns.truth, columns.bid,
        columns.conversion, *pctr,
    ]  # fmt: skip
    require_columns(frame, [*numbers, *names], path)
    if columns.currency and len(frame):
        currency = _check_currency(frame, columns, path, currency)
    read = {name: read_numbers(frame[name], path) for name in filter(None, numbers)}
    if columns.bid:
        _check_bids(columns, read, path)
    for name in filter(None, (columns.click, columns.conversion)):
        _check_outcome(name, read[name], path)
    auctions = Auctions.checked(
        where=str(path),
        price=read[columns.price],
        click=read[columns.click],
        floor=read.get(columns.floor),
        true_probability=read.get(columns.truth),
        user=units(frame, columns.user).astype(np.uint64),
        day=_days(frame, columns.day, path) if columns.day else None,
        conversion=read.get(columns.conversion),
    )
    scores = {name: probabilities(name, read[name], where=str(path)) for name in pctr}
    return auctions, scores, currency


def _check_outcome(name: str, values: Floats, path: Path) -> None:
    others = (values != 0) & (values != 1)
    if others.any():
        first = int(others.argmax())
        raise CorruptDataError(
            f"{int(others.sum()):,} of {counted(len(values), 'value')} of {name}"
            f" {are(int(others.sum()))} neither 0 nor 1, the first in row {first}:"
            f" {values[first]:g}",
            where=str(path),
            hint="pass one row per auction",
        )


def _days(frame: pd.DataFrame, day: str, path: Path) -> npt.NDArray[np.int64]:
    days = pd.factorize(frame[day])[0]
    if missing := int((days < 0).sum()):
        raise CorruptDataError(
            f"no {day} in {missing:,} of {counted(len(days), 'row')}, the first is row"
            f" {int((days < 0).argmax())}",
            where=str(path),
            hint="drop those rows, or leave out --day",
        )
    return days.astype(np.int64)


def _check_currency(frame: pd.DataFrame, columns: LogColumns, path: Path, expected: str) -> str:
    """Refuse prices in several currencies or in another currency than the earlier auctions."""
    usual, others = other_currency(pa.array(frame[columns.currency], from_pandas=True), expected)
    if others.any():
        raise CorruptDataError(
            f"{int(others.sum()):,} of {counted(len(frame), 'row')} {are(int(others.sum()))} not in"
            f" {usual!r}, the first in row"
            f" {int(others.argmax())}: {frame[columns.currency].iloc[int(others.argmax())]!r}",
            where=f"{path}, {columns.currency}",
            hint="the currency of the prices changes: convert all prices to one currency",
        )
    return usual


def _check_bids(columns: LogColumns, read: dict[str, Floats], path: Path) -> None:
    """Refuse a log with rows that contradict the logged bid; the error counts them by reason."""
    bid, price = read[columns.bid], read[columns.price]
    reasons = {f"{columns.bid} is missing or negative": ~(bid >= 0)}
    if columns.floor:
        reasons[f"{columns.bid} is below {columns.floor}"] = bid < read[columns.floor]
    reasons[f"{columns.click} is 1 but {columns.bid} is below {columns.price}"] = (
        read[columns.click] == 1
    ) & (bid < price)
    faults = [
        f"{reason} ({counted(int(rows.sum()), 'row')})"
        for reason, rows in reasons.items()
        if rows.any()
    ]
    if faults:
        raise CorruptDataError(
            ", ".join(faults), where=str(path), hint="fix the log, or leave out --bid"
        )


ROWS: tuple[tuple[str, str], ...] = (
    ("entered", ",.0f"), ("impressions", ",.0f"), ("clicks", ",.0f"), ("conversions", ",.0f"),
    ("spend", ",.2f"),
    ("value", ",.2f"), ("surplus", ",.2f"), ("expected_value", ",.2f"),
    ("expected_surplus", ",.2f"), ("win_rate", ".4f"), ("ecpc", ",.4f"), ("ecpm", ",.4f"),
    ("roi", ".3f"),
)  # fmt: skip


def _show(auctions: Auctions, earned: dict[str, Earnings], title: str, *, as_json: bool) -> None:
    if auctions.user is None:
        raise DataError("auctions have no users to resample")
    comparison = compare(
        earned, auctions.user.astype(np.int64), days=auctions.day, replicates=REPLICATES, seed=0
    )
    if as_json:
        print_json({"rules": title, "auctions": len(auctions), **comparison})
        return
    table = Table("", *earned, title=title)
    bidders = comparison["bidders"]
    first = next(iter(bidders))
    for name, form in ROWS:
        if name not in bidders[first] or (name == "conversions" and auctions.conversion is None):
            continue
        table.add_row(
            name.replace("_", " "), *[_cell(summary, name, form) for summary in bidders.values()]
        )
    for name in ("surplus", "expected_surplus"):
        if name in bidders[first] and comparison["differences"]:
            cells = [
                with_interval(differences[name], ",.2f")
                for differences in comparison["differences"].values()
            ]
            table.add_row(f"{first}'s {name.replace('_', ' ')} less", DASH, *cells)
    console.print(table)
    days = comparison["resampled_days"]
    console.print(
        f"{counted(len(auctions), 'auction')}; 95% intervals over"
        f" {counted(comparison['users'], 'user or row', 'users or rows')}"
        + (f" and {counted(days, 'day')}" if days else "")
    )


def _cell(summary: dict[str, Any], name: str, form: str) -> str:
    value = summary[name]
    if value is None:
        return DASH
    text = format(value, form)
    bounds = summary["intervals"].get(name)
    if bounds and bounds["low"] is not None:
        text += f" [{bounds['low']:,.2f}, {bounds['high']:,.2f}]"
    return text
