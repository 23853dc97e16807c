"""Prices and amounts are exact and additive, never mix currencies, and are never silently 0."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.cost.money import Money, shown
from nightbid.cost.price_book import DEFAULT_BOOK, PriceBook
from nightbid.cost.pricing import price_storage, price_usage
from nightbid.errors import PriceError
from nightbid.night.manifest import Usage

DAY = date(2026, 11, 23)
BOOK = PriceBook.load()


def test_one_hour_of_each_resource_costs_the_published_prices() -> None:
    usage = Usage(
        cpu_seconds=3600,
        gb_seconds=3600 * 1.073741824,
        bytes_shuffled=2**30,
        accelerator_seconds=3600,
    )
    cost = price_usage(usage, BOOK, at=DAY, where="cloud")
    assert round(cost.amount, 15) == Decimal("0.490557")  # 0.056 + 0.003557 + 0.011 + 0.42
    assert price_usage(usage, BOOK, at=DAY, where="local") == Money(Decimal(0))


def test_local_rates_and_commitment_discounts_are_applied(tmp_path: Path) -> None:
    text = DEFAULT_BOOK.read_text().replace("vcpu_hour: 0", "vcpu_hour: 0.011")
    text = text.replace(
        "discounts:\n",
        "discounts:\n  - {service: dataflow_batch, multiplier: 0.8, reason: one year,"
        " valid_from: 2026-01-01, valid_until: 2026-12-31}\n",
    )
    path = tmp_path / "book.yaml"
    path.write_text(text)
    book = PriceBook.load(path)
    usage = Usage(cpu_seconds=7200)
    assert price_usage(usage, book, at=DAY, where="local").amount == Decimal("0.022")
    assert price_usage(usage, book, at=DAY, where="cloud").amount == Decimal("0.0896")
    earlier = price_usage(usage, book, at=date(2025, 12, 31), where="cloud")
    assert earlier.amount == Decimal("0.112")


def test_flexrs_discounts_cpu_and_memory_but_not_shuffle() -> None:
    flexible = {
        resource: BOOK.unit_price("dataflow_batch", resource, at=DAY, option="flexrs").amount
        for resource in ("vcpu_hour", "memory_gb_hour", "shuffle_gb")
    }
    assert flexible == {
        "vcpu_hour": Decimal("0.0336"),
        "memory_gb_hour": Decimal("0.0021342"),
        "shuffle_gb": Decimal("0.011"),
    }
    with pytest.raises(PriceError, match=r"no multiplier for spot on vertex_training is valid"):
        BOOK.unit_price("vertex_training", "n1-standard-4_hour", at=DAY, option="spot")


def test_machine_prices_equal_the_sum_of_cores_and_memory() -> None:
    core, memory = Decimal("0.03635265"), Decimal("0.00487255")
    for cores in (4, 8, 16, 32):
        for kind, gb in (("standard", Decimal("3.75")), ("highmem", Decimal("6.5"))):
            price = BOOK.unit_price("vertex_training", f"n1-{kind}-{cores}_hour", at=DAY)
            assert price.amount == cores * (core + gb * memory), (kind, cores)


def test_missing_or_expired_prices_are_reported_with_their_source() -> None:
    with pytest.raises(PriceError, match=r"no price for dataflow_batch\.tpu_hour in us-central1"):
        BOOK.unit_price("dataflow_batch", "tpu_hour", at=DAY)
    with pytest.raises(PriceError, match=r"valid on 2031-01-01.*https://cloud.google.com"):
        price_usage(Usage(cpu_seconds=1), BOOK, at=date(2031, 1, 1), where="cloud")
    with pytest.raises(PriceError, match="in europe-west1"):
        BOOK.unit_price("dataflow_batch", "vcpu_hour", at=DAY, region="europe-west1")


def test_a_price_without_a_source_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "book.yaml"
    path.write_text(
        "cloud_equivalent: x\nlocal: {}\nprices:\n"
        "  - {service: x, resource: vcpu_hour, region: r, price: 1, currency: USD,"
        " valid_from: 2026-01-01, valid_until: 2026-12-31}\n"
    )
    with pytest.raises(PriceError, match=r"book.yaml.*prices.0.source"):
        PriceBook.load(path)


@pytest.mark.parametrize(
    ("changed", "into", "message"),
    [
        ("currency: USD\nregion", "currency: EUR\nregion", r"currency: Input should be 'USD'"),
        ('price: "0.056"\n    currency: USD', 'price: "0.056"\n    currency: EUR',
         r"prices\.0\.currency: Input should be 'USD', got 'EUR'"),
        ("service: dataflow_batch\n    option", "service: dataflow_btach\n    option",
         r"names 'dataflow_btach', which has no price \(known: .*dataflow_batch"),
        ("[vcpu_hour, memory_gb_hour]", "[vcpu_hours]",
         r"names 'vcpu_hours', which has no price \(known: .*vcpu_hour"),
        ("  - {<<: *dataflow, resource: shuffle_gb, price: \"0.011\"}",
         "  - {<<: *dataflow, resource: vcpu_hour, price: \"0.011\"}",
         r"two prices for dataflow_batch\.vcpu_hour in us-central1 are valid from 2022-01-01"),
        ("valid_until: 2027-06-30\nprices", "valid_until: 2021-06-30\nprices",
         r"discounts\.0: valid_until 2021-06-30 is before 2022-01-01"),
    ],
)  # fmt: skip
def test_a_book_whose_entries_would_be_misread_or_ignored_is_rejected(
    tmp_path: Path, changed: str, into: str, message: str
) -> None:
    text = DEFAULT_BOOK.read_text()
    assert changed in text
    path = tmp_path / "book.yaml"
    path.write_text(text.replace(changed, into, 1))
    with pytest.raises(PriceError, match=message) as caught:
        PriceBook.load(path)
    assert len(str(caught.value)) < 500


def test_storage_is_priced_by_size_time_and_class() -> None:
    storage = price_storage(50 * 2**30, 365, BOOK, at=DAY)
    assert storage.amount.quantize(Decimal("0.000001")) == Decimal("12")  # 50 GB, 12 months, 0.02
    cold = price_storage(50 * 2**30, 365, BOOK, at=DAY, storage_class="coldline")
    assert cold.amount.quantize(Decimal("0.000001")) == Decimal("2.4")


usages = st.builds(
    Usage,
    cpu_seconds=st.integers(0, 10**7).map(lambda n: n / 64),
    gb_seconds=st.integers(0, 10**7).map(lambda n: n / 64),
    bytes_shuffled=st.integers(0, 10**13),
    accelerator_seconds=st.integers(0, 10**6).map(float),
)


@given(st.lists(usages, max_size=8))
def test_split_usage_costs_as_much_as_the_whole(parts: list[Usage]) -> None:
    whole = sum(parts, Usage())
    apart = Money.total(price_usage(usage, BOOK, at=DAY, where="cloud") for usage in parts)
    together = price_usage(whole, BOOK, at=DAY, where="cloud")
    assert abs(apart.amount - together.amount) < Decimal("1e-20")


@given(st.lists(st.sampled_from(["USD", "EUR", "JPY"]), min_size=1, max_size=6))
def test_amounts_of_different_currencies_cannot_be_added(currencies: list[str]) -> None:
    amounts = [Money(Decimal(1), currency) for currency in currencies]
    if len(set(currencies)) == 1:
        assert Money.total(amounts) == Money(Decimal(len(currencies)), currencies[0])
    else:
        with pytest.raises(PriceError, match="cannot add"):
            Money.total(amounts)


@pytest.mark.parametrize(
    ("amount", "text"),
    [("1234.5", "1,234.5000"), ("0.056", "0.0560"), ("0", "0.0000"), ("0.0000123456", "0.0000123")],
)
def test_small_amounts_keep_their_digits(amount: str, text: str) -> None:
    assert shown(Decimal(amount)) == text
