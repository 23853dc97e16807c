"""`nightbid ablate`: a table of the value and the cost of each feature."""

from __future__ import annotations

from decimal import Decimal

from rich.table import Column, Table
from rich.text import Text

from nightbid.ablation.worth import Ablation, FeatureWorth
from nightbid.cost.money import shown
from nightbid.counts import counted
from nightbid.evaluation.bootstrap import Difference
from nightbid.report.formatting import DASH, interval, number, signed

TITLES = {
    "permutation": "with its inputs shuffled among rows",
    "retraining": "left out and the model retrained",
}


def parse_groups(texts: list[str]) -> dict[str, list[str]]:
    """Read `name=feature,feature` options.

    Raises:
        ConfigError: An option has another form.
    """
    from nightbid.errors import ConfigError

    groups = {}
    for text in texts:
        name, _, names = text.partition("=")
        features = [feature.strip() for feature in names.split(",") if feature.strip()]
        if not name or not features:
            raise ConfigError(f"cannot read the group {text!r}", hint="write name=feature,feature")
        groups[name] = features
    return groups


def ablation_table(ablation: Ablation) -> Table:
    """Make a table with a row per feature, the most valuable first."""
    table = Table(
        Column("feature", overflow="fold"),
        Column("log loss without it", justify="right"),
        Column("AUC without it", justify="right"),
        Column("CPU s per night", justify="right"),
        Column("USD per night", justify="right"),
        Column("ms per request", justify="right"),
        Column("log loss per USD", justify="right"),
        title=f"{ablation.run_id}: log loss {ablation.log_loss:.5f}, AUC {ablation.auc:.4f} on"
        f" {counted(ablation.rows, 'row')}; each feature {TITLES[ablation.method]}; 95% over"
        f" {counted(ablation.users, 'user')}",
        title_justify="left",
    )
    for feature in ablation.features:
        table.add_row(
            feature.name,
            feature.why_not if feature.why_not else _shown(feature.log_loss, 5, worse_is_more=True),
            _shown(feature.auc, 4, worse_is_more=False),
            number(feature.night_seconds, 2),
            shown(Decimal(str(feature.night_usd))),
            number(feature.request_ms, 3),
            _per_usd(feature),
        )
    return table


def _per_usd(feature: FeatureWorth) -> str:
    return DASH if feature.per_usd is None else f"{feature.per_usd:,.1f}"


def _shown(difference: Difference | None, digits: int, *, worse_is_more: bool) -> str | Text:
    if difference is None or difference["value"] is None:
        return DASH
    text = (
        f"{signed(difference['value'], digits)} {interval(difference, digits, sign=True)}".strip()
    )
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return Text(text, "dim")
    needed = low > 0 if worse_is_more else high < 0
    return Text(text, "green" if needed else "red")
