"""Export of the ledger in the FinOps FOCUS columns, for finance tools.

Reference: https://focus.finops.org/focus-specification/, dataset Cost and Usage: every column of
version 1.4 (or of 1.0, for older tools) in its order; columns that do not apply are null. Each
entry is a row, at daily granularity. For your own machine, the billed cost is at the local rate and
the list cost is the cloud price of the same usage.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from nightbid.cost.entries import MACHINE, LedgerEntry
from nightbid.cost.labels import labels
from nightbid.errors import ConfigError

OLD = (
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountStatus",
    "CommitmentDiscountType", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice",
    "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory",
    "ServiceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags",
)  # fmt: skip
SINCE = (
    "AllocatedMethodDetails", "AllocatedMethodId", "AllocatedResourceId", "AllocatedResourceName",
    "AllocatedTags", "BillingAccountType", "CapacityReservationId", "CapacityReservationStatus",
    "CommitmentDiscountQuantity", "CommitmentDiscountUnit", "CommitmentProgramEligibilityDetails",
    "ContractApplied", "HostProviderName", "InvoiceDetailId", "InvoiceId", "PricingCurrency",
    "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice", "ServiceProviderName", "ServiceSubcategory", "SkuMeter",
    "SkuPriceDetails", "SubAccountType",
)  # fmt: skip
GONE = ("ProviderName", "PublisherName")
COLUMNS = {"1.0": OLD, "1.4": tuple(sorted({*OLD, *SINCE} - {*GONE}))}
DECIMALS = frozenset(
    name for name in (*OLD, *SINCE) if name.endswith(("Cost", "UnitPrice", "Quantity"))
)
TIMES = frozenset(name for name in OLD if name.endswith(("PeriodStart", "PeriodEnd")))
SERVICES = {
    MACHINE: ("Compute", "Virtual Machines"),
    "dataflow_batch": ("Analytics", "Data Processing"),
    "vertex_training": ("AI and Machine Learning", "Machine Learning"),
}
"""Service → (category, subcategory) from the lists of the specification."""


def focus_row(entry: LedgerEntry, region: str = "us-central1") -> dict[str, object]:
    """Convert an entry to the FOCUS columns of all versions, without null columns.

    Amounts stay decimals; times are in UTC.
    """
    local = entry.service == MACHINE
    day = datetime(entry.day.year, entry.day.month, entry.day.day, tzinfo=UTC)
    month = day.replace(day=1)
    unit = _unit(entry.resource)
    provider = "On premises" if local else "Google Cloud"
    identity = "/".join((entry.pipeline, entry.run_id, entry.stage, str(entry.attempt)))
    listed = entry.cost_cloud / entry.quantity if entry.quantity else None
    contracted = entry.cost_here / entry.quantity if entry.quantity else None
    category, subcategory = SERVICES.get(entry.service, ("Compute", "Other (Compute)"))
    return {
        "BilledCost": entry.cost_here,
        "BillingAccountId": entry.pipeline,
        "BillingAccountName": entry.pipeline,
        "BillingAccountType": "Pipeline",
        "BillingCurrency": entry.currency,
        "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
        "BillingPeriodStart": month,
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{entry.resource} of {identity} ({entry.state})",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": day + timedelta(days=1),
        "ChargePeriodStart": day,
        "ConsumedQuantity": entry.quantity,
        "ConsumedUnit": unit,
        "ContractedCost": entry.cost_here,
        "ContractedUnitPrice": contracted,
        "EffectiveCost": entry.cost_here,
        "HostProviderName": provider,
        "InvoiceIssuerName": provider,
        "ListCost": entry.cost_cloud,
        "ListUnitPrice": listed,
        "PricingCategory": "Standard",
        "PricingCurrency": entry.currency,
        "PricingCurrencyContractedUnitPrice": contracted,
        "PricingCurrencyEffectiveCost": entry.cost_here,
        "PricingCurrencyListUnitPrice": listed,
        "PricingQuantity": entry.quantity,
        "PricingUnit": unit,
        "ProviderName": provider,
        "PublisherName": provider,
        "RegionId": None if local else region,
        "RegionName": None if local else region,
        "ResourceId": entry.job or identity,
        "ResourceName": identity,
        "ResourceType": entry.resource,
        "ServiceCategory": category,
        "ServiceName": entry.service,
        "ServiceProviderName": provider,
        "ServiceSubcategory": subcategory,
        "SkuId": f"{entry.service}.{entry.resource}",
        "SkuMeter": entry.resource,
        "SkuPriceId": f"{entry.service}.{entry.resource}.{entry.day}",
        "SubAccountId": entry.run_id,
        "SubAccountName": entry.run_id,
        "SubAccountType": "Run",
        "Tags": json.dumps(
            labels(pipeline=entry.pipeline, run_id=entry.run_id, stage=entry.stage)
            | {"nightbid_attempt": str(entry.attempt)},
            sort_keys=True,
        ),
    }


def export_focus(entries: Sequence[LedgerEntry], path: Path, version: str = "1.4") -> int:
    """Write entries to a .csv or .parquet file; return the number of rows.

    Args:
        entries: Entries of the ledger.
        path: Path of the file, whose extension selects the format.
        version: Version of the specification, a key of `COLUMNS`.

    Raises:
        ConfigError: The file type is not supported, or there are no entries.
    """
    columns = COLUMNS[version]
    rows = [focus_row(entry) for entry in entries]
    if not rows:
        raise ConfigError("the ledger is empty", where=str(path), hint="run a night first")
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows([_plain(row.get(name)) for name in columns] for row in rows)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        def kind(name: str) -> pa.DataType:
            if name in TIMES:
                return pa.timestamp("us", tz="UTC")
            return pa.decimal128(38, 18) if name in DECIMALS else pa.string()

        schema = pa.schema([(name, kind(name)) for name in columns])
        fixed = [{name: _fixed(row.get(name)) for name in columns} for row in rows]
        pq.write_table(pa.Table.from_pylist(fixed, schema=schema), path)
    else:
        raise ConfigError(
            f"cannot export to {path.suffix or 'a file without suffix'}",
            where=str(path),
            hint="name it .csv or .parquet",
        )
    return len(rows)


def _unit(resource: str) -> str:
    """Convert the unit in a resource's name to the notation of the specification: `GB-Hours`."""
    plurals = {"hour": "Hours", "month": "Months"}
    last = [part for part in resource.split("_") if part in ("gb", *plurals)]
    return "-".join(plurals.get(part, "GB") for part in last[-2:])


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{value:f}" if isinstance(value, Decimal) else value


def _fixed(value: object) -> object:
    return round(value, 18) if isinstance(value, Decimal) else value
