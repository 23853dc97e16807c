"""docs/data.md names every fault, source and key."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from nightbid.config.event_source import EventsSource
from nightbid.config.faults import FAULTS
from nightbid.config.folder_source import FolderSource
from nightbid.config.sources import KuaiRandSource, ObdSource, SimulatorSource

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


def test_data_page_lists_every_fault_with_default_and_meaning() -> None:
    for kind, (default, meaning) in FAULTS.items():
        assert f"| `{kind}` | {default:g} | {meaning} |" in PAGE


def test_data_page_names_every_source_and_key() -> None:
    for block in (SimulatorSource, ObdSource, KuaiRandSource, FolderSource, EventsSource):
        for name, field in block.model_fields.items():
            if name == "kind":
                for kind in get_args(field.annotation):
                    assert f"`{kind}`" in PAGE
            else:
                assert f"`{name}`" in PAGE, f"{block.__name__}.{name}"
