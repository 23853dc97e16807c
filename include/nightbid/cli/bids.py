"""`nightbid bids`: replays logged auctions with bids from predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightbid.cli.output import AsJson
from nightbid.errors import ConfigError

app = typer.Typer(
    help="Replay logged auctions: what other predictions would have earned.", no_args_is_help=True
)
STRATEGIES = (
    "truthful, constant, linear, ortb1, ortb2, arbitrage, shading, pacing, pid, target, rlb"
)

Log = Annotated[
    Path, typer.Argument(help="Auctions: .parquet, or .csv/.tsv/.txt, also .gz; in order of time.")
]
ValueOption = Annotated[float, typer.Option(help="Value of a click, in money.")]
PriceOption = Annotated[str, typer.Option(help="Column of the market price.")]
ClickOption = Annotated[str, typer.Option(help="Column of the click, 0 or 1.")]
FloorOption = Annotated[str, typer.Option(help="Column of the floor price.")]
UserOption = Annotated[str, typer.Option(help="Column that intervals resample by; default: rows.")]
TruthOption = Annotated[str, typer.Option(help="Column of the true click probability.")]
NamesOption = Annotated[
    str, typer.Option(help="Columns in order, for text without a header: a,b,c.")
]
BidOption = Annotated[
    str, typer.Option(help="Logged-bid column; rows that contradict it are an error.")
]
ConversionOption = Annotated[str, typer.Option(help="Conversion column, 0 or 1.")]
CurrencyOption = Annotated[
    str,
    typer.Option(help="Currency column. It is an error if the currency is not always the same."),
]
DayOption = Annotated[
    str, typer.Option(help="Day column; intervals also resample days if there are five or more.")
]
PricingOption = Annotated[str, typer.Option(help="Auction type: `second` or `first` price.")]
WinsOption = Annotated[
    str, typer.Option(help="`>`: a bid wins above the price; `>=`: also at the price.")
]
RoundingOption = Annotated[
    str, typer.Option(help="Rounding of bids: `none`, or `down` to whole price units.")
]
BudgetOption = Annotated[float | None, typer.Option(help="Budget for these auctions, in money.")]
PerOption = Annotated[
    float, typer.Option(help="Number of impressions that a price covers (1000 for CPM).")
]


@app.command("replay")
def replay_(
    log: Log,
    value: ValueOption,
    train: Annotated[
        Path | None, typer.Option(help="Earlier auctions to fit the strategies on.")
    ] = None,
    strategy: Annotated[list[str] | None, typer.Option(help=f"Repeatable: {STRATEGIES}.")] = None,
    pctr: Annotated[str, typer.Option(help="Column of the predicted click rate.")] = "pctr",
    price: PriceOption = "price",
    click: ClickOption = "click",
    floor: FloorOption = "",
    user: UserOption = "",
    truth: TruthOption = "",
    names: NamesOption = "",
    bid: BidOption = "",
    conversion: ConversionOption = "",
    currency: CurrencyOption = "",
    day: DayOption = "",
    pricing: PricingOption = "second",
    wins: WinsOption = ">",
    rounding: RoundingOption = "none",
    budget: BudgetOption = None,
    per: PerOption = 1000.0,
    cpc: Annotated[float | None, typer.Option(help="Target cost per click, in money.")] = None,
    roi: Annotated[float | None, typer.Option(help="Target ROI: value per money spent.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay bidding strategies with one column of predictions, each fitted on earlier auctions."""
    from nightbid.cli.bids_log import LogColumns, replay_strategies

    columns = LogColumns(price, click, floor, user, truth, names, bid, conversion, currency, day)
    replay_strategies(
        log, train, columns, pctr, tuple(strategy or ["truthful"]), value=value, pricing=pricing,
        wins=wins, rounding=rounding, budget=budget, per=per, cost_per_click=cpc, roi=roi,
        as_json=as_json,
    )  # fmt: skip


@app.command("compare")
def compare_(
    log: Log,
    value: ValueOption,
    pctr: Annotated[
        list[str],
        typer.Option(
            help="Prediction column; repeat it. The first is compared with each of the others."
        ),
    ],
    price: PriceOption = "price",
    click: ClickOption = "click",
    floor: FloorOption = "",
    user: UserOption = "",
    truth: TruthOption = "",
    names: NamesOption = "",
    bid: BidOption = "",
    conversion: ConversionOption = "",
    currency: CurrencyOption = "",
    day: DayOption = "",
    pricing: PricingOption = "second",
    wins: WinsOption = ">",
    rounding: RoundingOption = "none",
    budget: BudgetOption = None,
    per: PerOption = 1000.0,
    as_json: AsJson = False,
) -> None:
    """Compare predictions on the same auctions, each bidding its expected value."""
    if len(set(pctr)) < 2:
        raise ConfigError(
            f"{len(set(pctr))} column of predictions to compare", hint="pass --pctr at least twice"
        )
    from nightbid.cli.bids_log import LogColumns, compare_predictions

    columns = LogColumns(price, click, floor, user, truth, names, bid, conversion, currency, day)
    compare_predictions(
        log, columns, tuple(dict.fromkeys(pctr)), value=value, pricing=pricing, wins=wins,
        rounding=rounding, budget=budget, per=per, as_json=as_json,
    )  # fmt: skip


@app.command("policy")
def policy_(
    log: Annotated[
        Path, typer.Argument(help="Logged choices: .parquet, or .csv/.tsv/.txt, also .gz.")
    ],
    policy: Annotated[
        list[str],
        typer.Option(
            help="Columns with a policy's probability of the logged item. Columns NAME_predicted "
            "and NAME_expected add the doubly robust estimates."
        ),
    ],
    reward: Annotated[str, typer.Option(help="Column of the reward, such as a click.")] = "click",
    propensity: Annotated[
        str,
        typer.Option(help="Propensity column: probability with which the logged item was shown."),
    ] = "propensity",
    user: UserOption = "",
    names: NamesOption = "",
    switch: Annotated[float, typer.Option(help="Threshold τ of switch-DR.")] = 10.0,
    shrinkage: Annotated[
        float, typer.Option(help="λ of DR with optimistic shrinkage (DRos).")
    ] = 100.0,
    least_rows: Annotated[float, typer.Option(help="Minimum effective sample size.")] = 50.0,
    as_json: AsJson = False,
) -> None:
    """Estimate the reward of other policies from logs with propensities.

    A night with a `policy` block writes such a log: policy.parquet in the output of stage `replay`.
    """
    from nightbid.cli.bids_policy import show_policies

    show_policies(
        log, tuple(dict.fromkeys(policy)), reward=reward, propensity=propensity, user=user,
        names=names, switch=switch, shrinkage=shrinkage, least_rows=least_rows,
        as_json=as_json,
    )  # fmt: skip
