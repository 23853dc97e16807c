"""docs/data.md names every fault, source and key."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from nightbid.config.faults import FAULTS
from nightbid.config.sources import (
    EventsSource,
    FolderSource,
    KuaiRandSource,
    ObdSource,
    SimulatorSource,
)

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


def test_every_fault_is_in_the_table_as_it_is() -> None:
    for kind, (default, meaning) in FAULTS.items():
        assert f"| `{kind}` | {default:g} | {meaning} |" in PAGE


def test_every_source_and_key_is_named() -> None:
    for block in (SimulatorSource, ObdSource, KuaiRandSource, FolderSource, EventsSource):
        for name, field in block.model_fields.items():
            if name == "kind":
                for kind in get_args(field.annotation):
                    assert f"`{kind}`" in PAGE
            else:
                assert f"`{name}`" in PAGE, f"{block.__name__}.{name}"
