"""The price book: the YAML of dated list prices, local rates and discounts, and the look-up in it.

A missing or expired price raises a PriceError and never counts as zero.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from nightbid.config.base import Block
from nightbid.config.settings import Settings
from nightbid.config.yaml_values import StrictLoader
from nightbid.cost.money import Money
from nightbid.errors import PriceError

log = logging.getLogger(__name__)
DEFAULT_BOOK = Path(__file__).parent / "prices" / "google_cloud.yaml"
SOON = timedelta(days=30)
"""Time before a price expires from which each night logs a warning."""

Currency = Literal["USD"]
"""Budgets, limits and pages are in this currency."""


class ValidityPeriod(Block):
    """Days on which an entry of a price book is valid, both included."""

    valid_from: date
    """First day of validity; runs of earlier days have no price."""
    valid_until: date
    """Last day of validity, after which the price must be looked up again."""

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.valid_until < self.valid_from:
            raise ValueError(f"valid_until {self.valid_until} is before {self.valid_from}")
        return self


class Price(ValidityPeriod):
    """A list price and its source."""

    service: str
    resource: str
    """Resource, named after its unit: `vcpu_hour`, `memory_gb_hour`, `shuffle_gb`, …"""
    region: str
    price: Decimal = Field(ge=0)
    currency: Currency
    source: str
    source_date: date
    """Date of the source, or day on which it was read."""


class Discount(ValidityPeriod):
    """A multiplier on a service's prices: negotiated, committed use, spot."""

    service: str
    multiplier: Decimal = Field(ge=0, le=1)
    reason: str
    option: str = ""
    """Purchase option that the discount is for (`flexrs`, `spot`); empty: all options."""
    resources: tuple[str, ...] = ()
    """Resources that the discount is for; empty: all resources of the service."""

    def applies(self, service: str, resource: str, option: str, at: date) -> bool:
        """Whether the discount applies to a resource of a service on a day."""
        return (
            self.service == service
            and self.option in ("", option)
            and (not self.resources or resource in self.resources)
            and self.valid_from <= at <= self.valid_until
        )


class PriceBook(Block):
    """All prices of an installation."""

    currency: Currency = "USD"
    region: str = "us-central1"
    cloud_equivalent: str
    """Service whose prices apply to usage of your own machine."""
    local: dict[str, Decimal]
    """Resource → cost of a unit on your own machine (electricity, write-off); may be 0."""
    discounts: tuple[Discount, ...] = ()
    prices: tuple[Price, ...]

    @field_validator("local")
    @classmethod
    def _not_negative(cls, rates: dict[str, Decimal]) -> dict[str, Decimal]:
        if wrong := [f"{name}: {rate}" for name, rate in rates.items() if rate < 0]:
            raise ValueError(f"a local rate cannot be negative ({', '.join(wrong)})")
        return rates

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        priced: dict[str, set[str]] = {}
        starts: set[tuple[str, str, str, date]] = set()
        for price in self.prices:
            start = (price.service, price.resource, price.region, price.valid_from)
            if start in starts:
                raise ValueError(
                    f"two prices for {price.service}.{price.resource} in {price.region} are valid"
                    f" from {price.valid_from}"
                )
            starts.add(start)
            priced.setdefault(price.service, set()).add(price.resource)
        for discount in self.discounts:
            named = [discount.service, *discount.resources]
            known = [set(priced), *[priced.get(discount.service, set())] * len(discount.resources)]
            for name, names in zip(named, known, strict=True):
                if name not in names:
                    raise ValueError(
                        f"the discount for {discount.reason!r} names {name!r}, which has no price"
                        f" (known: {', '.join(sorted(names))})"
                    )
        return self

    @classmethod
    def load(cls, path: Path = DEFAULT_BOOK) -> PriceBook:
        """Read a price book.

        Raises:
            PriceError: The file is missing or malformed, a price lacks its source or dates, or two
                prices or a discount contradict each other.
        """
        try:
            # Convert through text, so that an unquoted 0.011 stays 0.011.
            tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextNumbers)  # noqa: S506
            return cls.model_validate(tree)
        except (OSError, yaml.YAMLError, ValidationError) as error:
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                key = ".".join(str(part) for part in first["loc"])
                text = (f"{key}: " if key else "") + first["msg"].removeprefix("Value error, ")
                if not isinstance(first.get("input"), (Mapping, Block)):
                    text += f", got {first.get('input')!r}"
            else:
                text = " ".join(str(error).split())
            raise PriceError(
                f"cannot read the price book: {text[:300]}",
                where=str(path),
                hint="every price needs service, resource, region, price, currency, source, dates",
            ) from error

    def unit_price(
        self,
        service: str,
        resource: str,
        *,
        at: date,
        region: str | None = None,
        option: str = "",
    ) -> Money:
        """Get the price of a unit on a day, with discounts applied.

        Args:
            service: Name of the service in the book.
            resource: Name of the resource of the service.
            at: Day of use.
            region: Region of use; None: the book's region.
            option: Purchase option (`flexrs`, `spot`), whose multiplier must be in the book; empty:
                none.

        Raises:
            PriceError: There is no such price, or none that is valid on that day.
        """
        place = region or self.region
        name = f"{service}.{resource} in {place}"
        known = [
            price
            for price in self.prices
            if (price.service, price.resource, price.region) == (service, resource, place)
        ]
        if not known:
            raise PriceError(
                f"no price for {name}",
                where="price book",
                hint="add it with its source and dates; a missing price is never counted as zero",
            )
        valid = [price for price in known if price.valid_from <= at <= price.valid_until]
        if not valid:
            spans = ", ".join(f"{price.valid_from} to {price.valid_until}" for price in known)
            raise PriceError(
                f"no price for {name} is valid on {at} (known: {spans})",
                where="price book",
                hint="renew it in a price book of your own (NIGHTBID_PRICES), from"
                f" {known[-1].source}",
            )
        price = max(valid, key=lambda price: price.valid_from)
        if (last := max(price.valid_until for price in valid)) - at <= SOON:
            _warn_of_end(name, last, price.source)
        amount = price.price
        if option:
            self._check_option(service, option, at)
        for discount in self.discounts:
            if discount.applies(service, resource, option, at):
                amount *= discount.multiplier
        return Money(amount, price.currency)

    def last_day(self) -> date:
        """Get the last day on which work on a machine of your own has a price."""
        last: dict[str, date] = {}
        for price in self.prices:
            if (price.service, price.region) == (self.cloud_equivalent, self.region):
                ends = (last.get(price.resource, price.valid_until), price.valid_until)
                last[price.resource] = max(ends)
        return min(last.values(), default=date.max)

    def _check_option(self, service: str, option: str, at: date) -> None:
        discounts = [
            discount
            for discount in self.discounts
            if (discount.service, discount.option) == (service, option)
        ]
        if any(discount.valid_from <= at <= discount.valid_until for discount in discounts):
            return
        spans = ", ".join(
            f"{discount.valid_from} to {discount.valid_until}" for discount in discounts
        )
        raise PriceError(
            f"no multiplier for {option} on {service} is valid on {at} (known: {spans or 'none'})",
            where="price book, discounts",
            hint=f"add one with option: {option}, its reason and dates",
        )

    def local_price(self, resource: str) -> Money:
        """Get the price of a unit on your own machine.

        Raises:
            PriceError: The book has no rate for the resource.
        """
        if resource not in self.local:
            raise PriceError(
                f"no local rate for {resource}",
                where="price book, local",
                hint="add it; write 0 if it is free",
            )
        return Money(self.local[resource], self.currency)


class _TextNumbers(StrictLoader):
    """YAML loader that keeps numbers as text, so that decimals stay exact."""


_TextNumbers.yaml_implicit_resolvers = {
    first: [resolver for resolver in rules if resolver[0] != "tag:yaml.org,2002:float"]
    for first, rules in StrictLoader.yaml_implicit_resolvers.items()
}


@cache
def default_book() -> PriceBook:
    """Get the installation's price book (NIGHTBID_PRICES, else the package's); read only once."""
    return PriceBook.load(Settings().prices or DEFAULT_BOOK)


@cache
def _warn_of_end(name: str, last: date, source: str) -> None:
    """Warn once per process that a price expires soon."""
    log.warning(
        "price book: the price of %s ends on %s, and nights after it stop → renew it in a price"
        " book of your own (NIGHTBID_PRICES), from %s", name, last, source,
    )  # fmt: skip
