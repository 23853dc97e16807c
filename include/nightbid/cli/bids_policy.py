"""Print the value of policies from a log with propensities: `nightbid bids policy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nightbid.bidding.policies import ESTIMATORS, Estimate, PolicyValue, evaluate
from nightbid.cli.bids_files import read_log, read_numbers, require_columns, units
from nightbid.cli.output import print_json, terminal
from nightbid.counts import counted
from nightbid.errors import DataError

console = terminal()
DASH = "–"
TITLES = {
    "dm": "DM", "ips": "IPS", "snips": "SNIPS", "dr": "DR", "sndr": "SNDR",
    "switch_dr": "switch-DR", "dr_os": "DRos",
}  # fmt: skip


def show_policies(
    log: Path,
    policies: tuple[str, ...],
    *,
    reward: str,
    propensity: str,
    user: str,
    names: str,
    switch: float,
    shrinkage: float,
    least_rows: float,
    as_json: bool = False,
) -> None:
    """Estimate each policy's mean reward; print a column per policy.

    Raises:
        NightbidError: A file, column or value is wrong, or the overlap is too small.
    """
    frame = read_log(log, names, [user])
    require_columns(frame, [reward, propensity, user, *policies], log)
    users = units(frame, user) if user else None
    rewards = read_numbers(frame[reward], log)
    logged = read_numbers(frame[propensity], log)
    values = {}
    for name in policies:
        models: dict[str, Any] = {}
        for key, column in (("predicted", "predicted"), ("predicted_policy", "expected")):
            if f"{name}_{column}" in frame.columns:
                models[key] = read_numbers(frame[f"{name}_{column}"], log)
        try:
            values[name] = evaluate(
                rewards, logged, read_numbers(frame[name], log), users=users, switch=switch,
                shrinkage=shrinkage, least_ess=least_rows, **models,
            )  # fmt: skip
        except DataError as error:
            raise DataError(error.what, where=f"{log}, {name}", hint=error.hint) from error
    if as_json:
        print_json(values)
        return
    _show(values, len(frame), len(np.unique(users)) if users is not None else len(frame))


def _show(policies: dict[str, PolicyValue], rows: int, units: int) -> None:
    table = Table("mean reward", *policies)
    logged = next(iter(policies.values())).logged
    table.add_row("as logged", *[_cell(logged)] * len(policies))
    for estimator in ESTIMATORS:
        if any(estimator in policy.estimates for policy in policies.values()):
            table.add_row(TITLES[estimator], *[
                _cell(policy.estimates[estimator]) if estimator in policy.estimates else DASH
                for policy in policies.values()
            ])  # fmt: skip
    best = ["dr" if "dr" in policy.estimates else "snips" for policy in policies.values()]
    table.add_row("gain", *[
        f"{_cell(policy.gain(name), sign='+')} {TITLES[name]}"
        for name, policy in zip(best, policies.values(), strict=True)
    ])  # fmt: skip
    for title, name, form in (
        ("effective sample size", "effective_sample_size", ",.0f"),
        ("mean weight", "mean_weight", ".4f"),
        ("largest weight", "largest_weight", ",.1f"),
    ):
        table.add_row(title, *[format(getattr(policy, name), form) for policy in policies.values()])
    console.print(table)
    over = counted(units, "user or row", "users or rows")
    console.print(f"{counted(rows, 'row')}; 95% intervals over {over}")


def _cell(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (
        format(x, f"{sign}.5f") for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"
