"""Storage costs of the stages' outputs, by size and lifetime."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from upath import UPath

from nightbid.cost.money import Money
from nightbid.cost.price_book import PriceBook, default_book
from nightbid.cost.pricing import price_storage
from nightbid.night.manifest import Manifest
from nightbid.storage.workspace import Workspace, read_manifest

DAY_SECONDS = 86400.0
MONTH_DAYS = 365 / 12


@dataclass(frozen=True)
class StageStorage:
    """Outputs of one stage in the workspace, and their storage costs."""

    stage: str
    outputs: int
    size_bytes: int
    so_far: Money
    """Cost from the creation of each output until now, at cloud prices."""
    per_month: Money
    """Cost of keeping the outputs for another month, at cloud prices."""


def kept_outputs(
    workspace: Workspace,
    pipeline: str,
    *,
    now: datetime | None = None,
    book: PriceBook | None = None,
    storage_class: str = "standard",
) -> list[StageStorage]:
    """Compute the storage cost of a pipeline's outputs per stage, the largest first.

    Raises:
        PriceError: The price of storage is missing or expired.
    """
    prices, moment = book or default_book(), now or datetime.now(UTC)
    day = moment.date()
    folder = workspace.root / "stages" / pipeline
    costs = []
    stages = sorted(folder.iterdir()) if folder.exists() else []
    outputs = {stage.name: _manifests(stage) for stage in stages}
    # On a local disk, the rows of a day are hard links to those of its nights.
    for kind in ("learn",) if workspace.is_local else ("learn", "sample"):
        days = workspace.root / "days" / kind
        folders = sorted(days.iterdir()) if days.exists() else []
        day_manifests = [
            manifest
            for day_folder in folders
            for manifest in _manifests(day_folder)
            if manifest.pipeline == pipeline
        ]
        if day_manifests:
            outputs[f"{kind}, by day"] = day_manifests
    for stage_name, manifests in outputs.items():
        sizes = [sum(file.size for file in manifest.files) for manifest in manifests]
        so_far = [
            price_storage(
                size, _days(manifest, moment), prices, at=day, storage_class=storage_class
            )
            for size, manifest in zip(sizes, manifests, strict=True)
        ]
        costs.append(
            StageStorage(
                stage=stage_name,
                outputs=len(manifests),
                size_bytes=sum(sizes),
                so_far=Money.total(so_far, prices.currency),
                per_month=price_storage(
                    sum(sizes), MONTH_DAYS, prices, at=day, storage_class=storage_class
                ),
            )
        )
    return sorted(costs, key=lambda cost: -cost.size_bytes)


def _manifests(folder: UPath) -> list[Manifest]:
    """List the manifests of the outputs in a folder."""
    return [
        read_manifest(output) for output in folder.iterdir() if (output / "manifest.json").exists()
    ]


def _days(manifest: Manifest, now: datetime) -> float:
    return max(0.0, (now - manifest.created).total_seconds() / DAY_SECONDS)
