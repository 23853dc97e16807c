"""Cost of computing each feature: learning, transforming, and lookup at serving."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa

from nightbid.cost.price_book import default_book
from nightbid.cost.pricing import price_lines
from nightbid.features.fitted import FittedFeatures
from nightbid.features.learn import learn
from nightbid.features.values import RawColumns

CANDIDATES = 100
"""Number of rows per request."""
REPEATS = 20


def seconds_of_feature(
    name: str, fitted: FittedFeatures, raw: pa.Table, learned: int, transformed: int
) -> tuple[float, float]:
    """Measure a feature on rows of the logs, in CPU seconds of this machine.

    Args:
        name: Name of the feature.
        fitted: Fitted features of the night.
        raw: Some thousand raw rows with the reserved columns.
        learned: Number of rows that a night learns from.
        transformed: Number of rows that a night transforms.

    Returns:
        CPU seconds per night (learning and transforming), and per request of 100 candidates.
    """
    definition = {name: fitted.definition.features[name]}
    zone, user = fitted.definition.time_zone, fitted.definition.user_column
    transform = fitted.transforms[name]
    transform.apply(RawColumns(raw, user))  # builds what is computed once, such as a history index
    learning = _cpu(lambda: learn(definition, raw, train=True, zone=zone, user=user)) / len(raw)
    applying = _cpu(lambda: transform.apply(RawColumns(raw, user))) / len(raw)
    request = raw.slice(0, CANDIDATES)

    def ask() -> None:
        for _ in range(REPEATS):
            transform.apply(RawColumns(request, user))

    return learning * learned + applying * transformed, _cpu(ask) / REPEATS


def usd(seconds: float) -> Decimal:
    """Price CPU seconds at the price book's cloud rate, with 4 GB of memory per core, in USD."""
    hours = Decimal(repr(seconds)) / 3600
    amounts = {"vcpu_hour": hours, "memory_gb_hour": hours * 4}
    lines = price_lines(
        amounts, default_book(), at=datetime.now(UTC).date(), where="cloud", service="compute_e2"
    )
    return sum((line.amount for line in lines.values()), Decimal(0))


def _cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this thread, which exclude other processes."""
    started = time.thread_time()
    work()
    return time.thread_time() - started
