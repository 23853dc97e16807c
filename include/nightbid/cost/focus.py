"""The ledger in the FinOps FOCUS 1.0 column set, for the tools that finance uses.

Reference: https://focus.finops.org/focus-specification/ (version 1.0), every column of it, in
its order; what does not apply is null. One row per entry, at daily granularity. For a machine of
yours, the billed cost is the local rate and the list cost is the cloud's price of the same usage.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from nightbid.cost.labels import labels
from nightbid.cost.ledger import MACHINE, LedgerEntry
from nightbid.errors import ConfigError

MONEY = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
QUANTITY = ("ConsumedQuantity", "PricingQuantity", "ListUnitPrice", "ContractedUnitPrice")


def focus_row(entry: LedgerEntry, region: str = "us-central1") -> dict[str, object]:
    """One entry as FOCUS columns; amounts stay decimals, times are ISO 8601 in UTC."""
    local = entry.service == MACHINE
    day = datetime(entry.day.year, entry.day.month, entry.day.day, tzinfo=UTC)
    month = day.replace(day=1)
    next_month = (month + timedelta(days=32)).replace(day=1)
    unit = {"hour": "Hours", "gb": "GB", "month": "GB-Months"}[entry.resource.rpartition("_")[2]]
    provider = "On premises" if local else "Google Cloud"
    identity = "/".join((entry.pipeline, entry.run_id, entry.stage, str(entry.attempt)))
    listed = entry.cost_cloud / entry.quantity if entry.quantity else None
    contracted = entry.cost_here / entry.quantity if entry.quantity else None
    return {
        "AvailabilityZone": None,
        "BilledCost": entry.cost_here,
        "BillingAccountId": entry.pipeline,
        "BillingAccountName": entry.pipeline,
        "BillingCurrency": entry.currency,
        "BillingPeriodEnd": _time(next_month),
        "BillingPeriodStart": _time(month),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{entry.resource} of {identity} ({entry.state})",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _time(day + timedelta(days=1)),
        "ChargePeriodStart": _time(day),
        "CommitmentDiscountCategory": None,
        "CommitmentDiscountId": None,
        "CommitmentDiscountName": None,
        "CommitmentDiscountStatus": None,
        "CommitmentDiscountType": None,
        "ConsumedQuantity": entry.quantity,
        "ConsumedUnit": unit,
        "ContractedCost": entry.cost_here,
        "ContractedUnitPrice": contracted,
        "EffectiveCost": entry.cost_here,
        "InvoiceIssuerName": provider,
        "ListCost": entry.cost_cloud,
        "ListUnitPrice": listed,
        "PricingCategory": "Standard",
        "PricingQuantity": entry.quantity,
        "PricingUnit": unit,
        "ProviderName": provider,
        "PublisherName": provider,
        "RegionId": None if local else region,
        "RegionName": None if local else region,
        "ResourceId": entry.job or identity,
        "ResourceName": identity,
        "ResourceType": entry.resource,
        "ServiceCategory": "Compute",
        "ServiceName": entry.service,
        "SkuId": f"{entry.service}.{entry.resource}",
        "SkuPriceId": f"{entry.service}.{entry.resource}.{entry.day}",
        "SubAccountId": entry.run_id,
        "SubAccountName": entry.run_id,
        "Tags": json.dumps(
            labels(pipeline=entry.pipeline, run_id=entry.run_id, stage=entry.stage)
            | {"nightbid_attempt": str(entry.attempt)},
            sort_keys=True,
        ),
    }


def export_focus(entries: Sequence[LedgerEntry], path: Path) -> int:
    """Write `path` (.csv or .parquet); returns the number of rows.

    Raises:
        ConfigError: another file type.
    """
    rows = [focus_row(entry) for entry in entries]
    if not rows:
        raise ConfigError("the ledger is empty", where=str(path), hint="run a night first")
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        decimal = pa.decimal128(38, 18)
        schema = pa.schema(
            [(name, decimal if name in MONEY + QUANTITY else pa.string()) for name in rows[0]]
        )
        fixed = [{name: _fixed(value) for name, value in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(fixed, schema=schema), path)
    else:
        raise ConfigError(
            f"cannot export to {path.suffix or 'a file without suffix'}",
            where=str(path),
            hint="name it .csv or .parquet",
        )
    return len(rows)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(value: object) -> object:
    return f"{value:f}" if isinstance(value, Decimal) else value


def _fixed(value: object) -> object:
    return round(value, 18) if isinstance(value, Decimal) else value
