"""Costs of usage, storage and serving at the prices of a book.

All amounts are exact and linear in the quantity, so the costs of splits, workers and retries add
up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from nightbid.cost.money import Money, exact
from nightbid.cost.price_book import PriceBook
from nightbid.errors import PriceError
from nightbid.night.manifest import Usage

GIB = Decimal(2**30)
"""Google bills memory, disk and shuffle in GB of 2^30 bytes."""
DAYS_PER_MONTH = Decimal(365) / Decimal(12)

PriceList = Literal["local", "cloud"]


def quantities(usage: Usage) -> dict[str, Decimal]:
    """Get the billable units of a usage, without zeros.

    Memory is metered in units of 10^9 bytes and billed in units of 2^30. Shuffled bytes count in
    full.
    """
    hour = Decimal(3600)
    amounts = {
        "vcpu_hour": exact(usage.cpu_seconds) / hour,
        "memory_gb_hour": exact(usage.gb_seconds) * Decimal(10**9) / GIB / hour,
        "shuffle_gb": exact(usage.bytes_shuffled) / GIB,
        "gpu_hour": exact(usage.accelerator_seconds) / hour,
    }
    return {name: amount for name, amount in amounts.items() if amount}


def price_lines(
    amounts: Mapping[str, Decimal],
    book: PriceBook,
    *,
    at: date,
    where: PriceList,
    service: str | None = None,
    option: str = "",
) -> dict[str, Money]:
    """Compute the cost of each resource.

    Args:
        amounts: Resource → quantity in its unit.
        book: Price book.
        at: Day of use.
        where: `local` for the cost on your own machine, `cloud` for the list price.
        service: Cloud service; None: the book's `cloud_equivalent`.
        option: Purchase option of cloud work, see `PriceBook.unit_price`.
    """
    name = service or book.cloud_equivalent
    lines = {}
    for resource, quantity in amounts.items():
        if where == "local":
            unit = book.local_price(resource)
        else:
            unit = book.unit_price(name, resource, at=at, option=option)
        lines[resource] = Money(unit.amount * quantity, unit.currency)
    return lines


def price_usage(usage: Usage, book: PriceBook, *, at: date, where: PriceList) -> Money:
    """Compute the cost of a stage's usage, here or at cloud prices.

    Raises:
        PriceError: A price is missing or expired.
    """
    lines = price_lines(quantities(usage), book, at=at, where=where)
    return Money.total(lines.values(), book.currency)


def price_storage(
    size_bytes: int, days: float, book: PriceBook, *, at: date, storage_class: str = "standard"
) -> Money:
    """Compute the cost of bytes in a class of cloud storage for some days."""
    months = exact(days) / DAYS_PER_MONTH
    unit = book.unit_price(f"storage_{storage_class}", "gb_month", at=at)
    return Money(exact(size_bytes) / GIB * months * unit.amount, unit.currency)


def price_serving(
    requests_per_second: float,
    requests_per_second_per_core: float,
    book: PriceBook,
    *,
    at: date,
    headroom: float = 0.5,
) -> Money:
    """Compute the cost of a month (365 / 12 days) of serving on machines with 4 GB per core.

    Args:
        requests_per_second: Load to serve.
        requests_per_second_per_core: Rate that the load test measured.
        book: Price book.
        at: Day of use.
        headroom: Share of each core that is kept free for peaks.

    Raises:
        PriceError: A price is missing, or the measured rate is not positive.
    """
    usable = _usable_rate(requests_per_second_per_core, headroom)
    cores = (exact(requests_per_second) / usable).to_integral_value(rounding=ROUND_CEILING)
    return _price_core_hours(cores * DAYS_PER_MONTH * 24, book, at)


def price_million_predictions(
    requests_per_second_per_core: float,
    predictions_per_request: int,
    book: PriceBook,
    *,
    at: date,
    headroom: float = 0.5,
) -> Money:
    """Compute the cost of a million scored candidates, on cores used up to the headroom.

    Args:
        requests_per_second_per_core: Rate that the load test measured.
        predictions_per_request: Number of candidates per request in the load test.
        book: Price book.
        at: Day of use.
        headroom: Share of each core that is kept free for peaks.

    Raises:
        PriceError: A price is missing, or the measured rate is not positive.
    """
    usable = _usable_rate(requests_per_second_per_core, headroom)
    return _price_core_hours(Decimal(10**6) / predictions_per_request / usable / 3600, book, at)


def _usable_rate(requests_per_second_per_core: float, headroom: float) -> Decimal:
    if requests_per_second_per_core <= 0 or not 0 <= headroom < 1:
        raise PriceError(
            f"cannot price serving at {requests_per_second_per_core} requests/s per core with"
            f" headroom {headroom}",
            where="serving",
            hint="run the load test; headroom is a share from 0 to below 1",
        )
    return exact(requests_per_second_per_core) * (1 - exact(headroom))


def _price_core_hours(hours: Decimal, book: PriceBook, at: date) -> Money:
    amounts = {"vcpu_hour": hours, "memory_gb_hour": hours * 4}
    lines = price_lines(amounts, book, at=at, where="cloud", service="compute_e2")
    return Money.total(lines.values())
