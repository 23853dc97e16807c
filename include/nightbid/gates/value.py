"""Value gate: whether the candidate's bids would earn as much as the champion's."""

from __future__ import annotations

from typing import Any

from nightbid.counts import counted
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


def _policy(measurements: Measurements, metrics: dict[str, Any]) -> None:
    """Measure what the candidate's choices lose against the logged choices."""
    candidate, logged = metrics["policies"]["candidate"], metrics["logged"]["value"]
    if "refused" in candidate:
        measurements.skip(f"the value of the policy: {candidate['refused']}")
    elif not logged:
        measurements.skip("the value of the policy: no logged row has a positive label")
    else:
        value = candidate["estimates"]["dr"]["value"]
        loss = max(-candidate["gains"]["dr"]["high"], 0.0) / logged
        rows = f"{counted(metrics['rows'], 'row')} worth {candidate['effective_sample_size']:,.0f}"
        measurements.add("policy_loss", loss, note=f"{value:.5f}, logged {logged:.5f}; {rows}")


def _money(measurements: Measurements, metrics: dict[str, Any]) -> None:
    """Measure what the candidate's bids lose against the reference."""
    bidders, reference = metrics["bidders"], metrics["reference"]
    known = "expected_surplus" in bidders["candidate"]
    name = "expected_surplus" if known else "surplus"
    surplus, reference_surplus = bidders["candidate"][name], bidders[reference][name]
    measurements.add(
        "surplus",
        surplus,
        note=f"{name.replace('_', ' ')} on {counted(metrics['auctions'], 'auction')}",
    )
    high = metrics["differences"][reference][name]["high"]
    if high is None:
        measurements.skip("the loss against the reference: too few users for an interval")
    elif reference_surplus:
        # Only the loss that remains at the upper end of the interval is beyond chance.
        loss = max(-high, 0.0) / abs(reference_surplus)
        measurements.add(
            "surplus_loss", loss, note=f"{surplus:,.2f}, {reference} {reference_surplus:,.2f}"
        )
    measurements.add(
        "unusable_rows",
        metrics["unusable_share"],
        note=", ".join(f"{why}: {rows:,}" for why, rows in metrics["unusable"].items()),
    )
    if metrics["price_ratio"] is not None:
        measurements.add("price_ratio", metrics["price_ratio"], note="median price, newest days")
    else:
        measurements.skip("the price level: too few rows to compare with the days before")
