"""`nightbid cost answers` and `cost forecast`: cost per run, and forecasts."""

from __future__ import annotations

from decimal import Decimal

from rich.console import Console
from rich.text import Text

from nightbid.cli.listing import Listing
from nightbid.cli.output import print_json
from nightbid.cost.forecast import Backtest, backtest, forecast, run_costs, unusual
from nightbid.cost.money import shown
from nightbid.counts import counted
from nightbid.differences import signed
from nightbid.errors import ConfigError
from nightbid.storage.workspace import Workspace


def show_answers(workspace: Workspace, name: str, console: Console, *, as_json: bool) -> None:
    """Print cost per run, AUC gained, and forecast vs. actual.

    Args:
        workspace: Workspace with the runs and the ledger.
        name: Name of the pipeline.
        console: Console to print on.
        as_json: Whether to print JSON instead of text.

    Raises:
        ConfigError: The ledger has no cost of the pipeline.
    """
    runs = run_costs(workspace, name)
    if not runs:
        raise ConfigError(
            f"no run of {name!r} has cost anything yet",
            where=str(workspace.root),
            hint=f"run a night: `nightbid run {name} --date …`",
        )
    currency = runs[0].cloud.currency
    forecasts = {test.run_id: test for test in backtest(runs)}
    if as_json:
        print_json(
            {
                "runs": [
                    {
                        "run_id": run.run_id,
                        "night": run.night,
                        "cloud": run.cloud,
                        "here": run.here,
                        "rows": run.rows,
                        "forecast": forecasts.get(run.run_id),
                        "per_million_rows": run.per_million_rows,
                        "per_model": run.per_model,
                        "auc_gain": run.auc_gain,
                        "per_auc_point": run.per_auc_point,
                    }
                    for run in runs
                ],
                "unusual": unusual(runs),
            }
        )
        return
    table = Listing("run", "night", f"cloud {currency}", "forecast", "rows", "per million rows",
                    "per model", "AUC gain", "per AUC point")  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    for run in runs:
        table.add_row(
            run.run_id,
            run.night.isoformat(),
            money(run.cloud.amount),
            _forecast(forecasts.get(run.run_id)),
            f"{run.rows:,}",
            money(run.per_million_rows),
            money(run.per_model),
            "–" if run.auc_gain is None else signed(run.auc_gain, ".5f"),
            money(run.per_auc_point),
        )
    console.print(table)
    console.print(
        "The forecast is computed from earlier runs, for the same rows; its error is in "
        "parentheses. An AUC point is 0.01 above the reference. – means no gain, or unknown."
    )
    if alert := unusual(runs):
        console.print(Text.assemble(("unusual:", "bold yellow"), f" {alert}"), soft_wrap=True)


def show_forecast(
    workspace: Workspace, name: str, nights: int, rows: int | None, console: Console, *,
    as_json: bool,
) -> None:  # fmt: skip
    """Print the forecast cost of nights, and the error of earlier forecasts.

    Args:
        workspace: Workspace with the runs and the ledger.
        name: Name of the pipeline.
        nights: Number of nights to forecast.
        rows: Number of rows per night; None: as in recent nights.
        console: Console to print on.
        as_json: Whether to print JSON instead of text.

    Raises:
        ConfigError: No past run trained a model.
    """
    estimate = forecast(run_costs(workspace, name), nights, rows)
    if estimate is None:
        raise ConfigError(
            f"no past run of {name!r} that trained a model: nothing to forecast from",
            where=str(workspace.root),
            hint=f"run one night first: `nightbid run {name} --date …`",
        )
    if as_json:
        print_json(estimate)
        return
    console.print(
        f"{counted(nights, 'night')} of {counted(estimate.rows_per_night, 'row')}: about"
        f" {money(estimate.total_usd)} USD at cloud prices"
        f" ({money(estimate.low_usd)} to {money(estimate.high_usd)}),"
        f" from {counted(estimate.from_runs, 'past run')}",
        soft_wrap=True,
    )
    if estimate.mean_error is None:
        console.print("The error of such forecasts is not known yet: it takes a second run.")
    else:
        console.print(
            f"Earlier forecasts were off by {estimate.mean_error:.0%} on average; each used only "
            "the nights before it."
        )


def _forecast(seen: Backtest | None) -> str:
    return "–" if seen is None else f"{shown(seen.expected_usd)} ({signed(seen.error, '.0%')})"


def money(amount: Decimal | None) -> str:
    """Format an amount; a dash if it is None."""
    return "–" if amount is None else shown(amount)
