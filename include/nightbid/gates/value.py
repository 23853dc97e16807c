"""Value gate: whether the candidate's bids would earn as much as the champion's."""

from __future__ import annotations

from typing import Any

from nightbid.gates.gate import gate
from nightbid.gates.measurements import Measurements
from nightbid.night.task import StageTask


@gate("value")
def measure(task: StageTask) -> Measurements:
    """Measure the surplus, its loss against the reference, and rows that cannot be replayed."""
    measurements = Measurements()
    metrics: dict[str, Any] = dict(task.inputs["replay"].manifest.metrics)
    if metrics["replayed"]:
        _money(measurements, metrics)
    else:
        measurements.skip("what the predictions would have earned: there is no replay block")
    if "policy" in metrics:
        _policy(measurements, metrics["policy"])
    return measurements


def _policy(measurements: Measurements, found: dict[str, Any]) -> None:
    """Measure what the candidate's choices lose against the logged choices."""
    mine, logged = found["policies"]["candidate"], found["logged"]["value"]
    if "refused" in mine:
        measurements.skip(f"the value of the policy: {mine['refused']}")
    elif not logged:
        measurements.skip("the value of the policy: no logged row has a positive label")
    else:
        value = mine["estimates"]["dr"]["value"]
        loss = max(-mine["gains"]["dr"]["high"], 0.0) / logged
        rows = f"{found['rows']:,} rows worth {mine['effective_sample_size']:,.0f}"
        measurements.add("policy_loss", loss, note=f"{value:.5f}, logged {logged:.5f}; {rows}")


def _money(measurements: Measurements, metrics: dict[str, Any]) -> None:
    """Measure what the candidate's bids lose against the reference."""
    bidders, reference = metrics["bidders"], metrics["reference"]
    known = "expected_surplus" in bidders["candidate"]
    name = "expected_surplus" if known else "surplus"
    mine, theirs = bidders["candidate"][name], bidders[reference][name]
    measurements.add(
        "surplus", mine, note=f"{name.replace('_', ' ')} on {metrics['auctions']:,} auctions"
    )
    high = metrics["differences"][reference][name]["high"]
    if high is None:
        measurements.skip("the loss against the reference: too few users for an interval")
    elif theirs:
        # Only the loss that remains at the upper end of the interval is beyond chance.
        loss = max(-high, 0.0) / abs(theirs)
        measurements.add("surplus_loss", loss, note=f"{mine:,.2f}, {reference} {theirs:,.2f}")
    measurements.add(
        "unusable_rows",
        metrics["unusable_share"],
        note=", ".join(f"{why}: {rows:,}" for why, rows in metrics["unusable"].items()),
    )
    if metrics["price_ratio"] is not None:
        measurements.add("price_ratio", metrics["price_ratio"], note="median price, newest days")
    else:
        measurements.skip("the price level: too few rows to compare with the days before")
