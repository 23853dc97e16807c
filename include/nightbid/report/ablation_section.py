"""Section of a run's page on the value of its features; see `nightbid ablate`."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from nightbid.cost.money import shown
from nightbid.report.formatting import DASH, interval, number, signed
from nightbid.report.run_view import RunView

METHODS = {
    "permutation": "shuffling the feature's inputs among the evaluation rows",
    "retraining": "retraining the model without the feature",
}


def ablation_context(view: RunView) -> dict[str, Any]:
    """Get the rows of the newest ablation of a run; empty if there is none."""
    path = view.run.folder / "ablation.json"
    if not path.exists():
        return {"ablation": None}
    ablation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        {
            "name": feature["name"],
            "features": feature["features"],
            "log_loss": feature["why_not"] or _shown(feature["log_loss"], 5),
            "auc": _shown(feature["auc"], 4),
            "seconds": number(feature["night_seconds"], 2),
            "usd": shown(Decimal(str(feature["night_usd"]))),
            "request": number(feature["request_ms"], 3),
            "per_usd": _per_usd(feature),
        }
        for feature in ablation["features"]
    ]
    return {
        "ablation": ablation,
        "ablation_rows": rows,
        "ablation_method": METHODS[ablation["method"]],
    }


def _shown(difference: dict[str, Any] | None, digits: int) -> str:
    if not difference or difference["value"] is None:
        return DASH
    bounds = interval(difference, digits, sign=True)
    return f"{signed(difference['value'], digits)} {bounds}".strip()


def _per_usd(feature: dict[str, Any]) -> str:
    value = (feature["log_loss"] or {}).get("value")
    return (
        DASH
        if value is None or not feature["night_usd"]
        else f"{value / feature['night_usd']:,.1f}"
    )
