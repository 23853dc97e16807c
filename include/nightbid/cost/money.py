"""Amounts of money, which can only be added within a currency."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from nightbid.errors import PriceError

CENT = Decimal("0.01")


def exact(value: float | int | Decimal | str) -> Decimal:
    """Convert a measured number to the decimal that it prints as (0.1 is 0.1)."""
    return value if isinstance(value, Decimal) else Decimal(str(value))


@dataclass(frozen=True, order=False)
class Money:
    """Exact decimal amount in a currency (ISO 4217)."""

    amount: Decimal
    currency: str = "USD"

    def __add__(self, other: Money) -> Money:
        if self.currency != other.currency:
            raise PriceError(
                f"cannot add {other.amount} {other.currency} to {self.amount} {self.currency}",
                where="costs",
                hint="keep one currency per price book, or convert before adding",
            )
        return Money(self.amount + other.amount, self.currency)

    def __str__(self) -> str:
        return f"{shown(self.amount)} {self.currency}"

    @classmethod
    def total(cls, amounts: Iterable[Money], currency: str = "USD") -> Money:
        """Sum amounts; zero in `currency` if there are none.

        Raises:
            PriceError: The amounts have different currencies.
        """
        addends = list(amounts)
        start = cls(Decimal(0), addends[0].currency if addends else currency)
        for amount in addends:
            start = start + amount
        return start

    def cents(self) -> Decimal:
        """Round half up to two places, for display and comparison with an invoice."""
        return self.amount.quantize(CENT, rounding=ROUND_HALF_UP)


def shown(amount: Decimal) -> str:
    """Format an amount for readers: four decimals, or three digits of a very small amount."""
    if amount == 0 or abs(amount) >= CENT:
        return f"{amount:,.4f}"
    return f"{Decimal(f'{amount:.2e}'):f}"
