"""Reconciliation of estimates with an invoice: ledger against billing export, per run and stage."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from nightbid.cost.entries import LedgerEntry
from nightbid.cost.labels import PREFIX, labels
from nightbid.cost.money import Money
from nightbid.errors import ConfigError, CorruptDataError

StageLabels = tuple[str, str, str]
"""(Pipeline, run, stage), as label values."""
COST_COLUMNS = ("BilledCost", "cost")
CURRENCY_COLUMNS = ("BillingCurrency", "currency")
LABEL_COLUMNS = ("Tags", "labels")


@dataclass(frozen=True)
class ReconciledStage:
    """Estimate of the ledger and billed amount of one run and stage."""

    where: StageLabels
    estimate: Money
    invoice: Money

    @property
    def difference(self) -> Decimal:
        """Invoice minus estimate."""
        return (self.invoice + Money(-self.estimate.amount, self.estimate.currency)).amount


@dataclass(frozen=True)
class Reconciliation:
    """All lines, and the part of the bill that no run of the ledger explains."""

    lines: tuple[ReconciledStage, ...]
    unexplained: Money
    """Amount billed without Nightbid's labels, or for runs that the ledger does not have."""


def reconcile(entries: Iterable[LedgerEntry], export: Path) -> Reconciliation:
    """Compare the ledger with a billing export in CSV.

    Args:
        entries: Entries of the ledger for the period of the export.
        export: CSV file with FOCUS columns (BilledCost, BillingCurrency, Tags) or the columns of
            Google's billing export (cost, currency, labels).

    Raises:
        ConfigError: The file is missing or lacks these columns.
        CorruptDataError: An amount or a label cell cannot be read.
        PriceError: The currencies differ.
    """
    estimates: dict[StageLabels, list[Money]] = {}
    for entry in entries:
        marks = labels(pipeline=entry.pipeline, run_id=entry.run_id, stage=entry.stage)
        where = _where(marks)
        assert where is not None
        estimates.setdefault(where, []).append(Money(entry.cost_here, entry.currency))
    invoices: dict[StageLabels, list[Money]] = {}
    rest: list[Money] = []
    for marks, amount in _read(export):
        key = _where(marks)
        if key in estimates:
            invoices.setdefault(key, []).append(amount)
        else:
            rest.append(amount)
    currency = next((amounts[0].currency for amounts in estimates.values()), "USD")
    lines = []
    for where, amounts in sorted(estimates.items()):
        estimate = Money.total(amounts)
        invoice = Money.total(invoices.get(where, []), estimate.currency)
        if estimate.amount or invoice.amount:
            lines.append(ReconciledStage(where, estimate, invoice))
    return Reconciliation(tuple(lines), Money.total(rest, currency))


def _where(marks: Mapping[str, str]) -> StageLabels | None:
    try:
        return (
            marks[f"{PREFIX}pipeline"],
            marks[f"{PREFIX}run"],
            marks[f"{PREFIX}stage"],
        )
    except KeyError:
        return None


def _read(path: Path) -> list[tuple[dict[str, str], Money]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = reader.fieldnames or []
            cost, currency, label = (
                next((name for name in candidates if name in names), "")
                for candidates in (COST_COLUMNS, CURRENCY_COLUMNS, LABEL_COLUMNS)
            )
            if not (cost and currency and label):
                raise ConfigError(
                    f"not a billing export: its columns are {', '.join(names) or 'none'}",
                    where=str(path),
                    hint="it needs BilledCost, BillingCurrency, Tags or cost, currency, labels",
                )
            rows = list(reader)
    except OSError as error:
        raise ConfigError(
            f"cannot read the billing export ({error.strerror})",
            where=str(path),
            hint="export it as CSV first",
        ) from error
    lines = []
    for number, row in enumerate(rows, start=2):
        try:
            amount = Decimal(row[cost])
            marks = _marks(row[label])
        except (InvalidOperation, ValueError, TypeError, KeyError) as error:
            raise CorruptDataError(
                f"cannot read cost {row[cost]!r} with labels {row[label]!r}",
                where=f"{path}:{number}",
                hint="fix the line: a decimal, and labels as JSON",
            ) from error
        lines.append((marks, Money(amount, row[currency])))
    return lines


def _marks(cell: str | None) -> dict[str, str]:
    """Parse the labels in a cell: a JSON object (FOCUS) or a list of key/value objects (Google)."""
    value = json.loads(cell) if cell else {}
    if isinstance(value, list):
        return {label["key"]: label["value"] for label in value}
    return dict(value)
