"""Costs as metrics, through Airflow's own StatsD or OpenTelemetry (`[metrics]` in airflow.cfg).

Gauges below `nightbid.cost.`, tagged with the pipeline and, while it runs, the stage. Sent from
the triggerer, where Airflow has set its metrics up; where none are switched on, nothing is sent.
"""

from __future__ import annotations

from decimal import Decimal

from airflow.observability import stats


def send(name: str, value: Decimal | float, **tags: str) -> None:
    """Set the gauge `nightbid.cost.<name>`."""
    stats.gauge(f"nightbid.cost.{name}", float(value), tags=dict(tags))
