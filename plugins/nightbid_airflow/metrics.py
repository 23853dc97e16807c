"""Costs as metrics, through Airflow's own StatsD or OpenTelemetry (`[metrics]` in airflow.cfg).

The gauges are named `nightbid.cost.…` and tagged with the pipeline and, for running stages, the
stage. The triggerer sends them; if Airflow's metrics are off, nothing is sent.
"""

from __future__ import annotations

from decimal import Decimal

from airflow.observability import stats


def send(name: str, value: Decimal | float, **tags: str) -> None:
    """Set the gauge `nightbid.cost.<name>`."""
    stats.gauge(f"nightbid.cost.{name}", float(value), tags=dict(tags))
