"""The simulated exchange as a source of logs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pyarrow as pa

from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.impressions import Exchange
from nightbid.data.source import Meaning

MEANING = Meaning(
    outcomes=frozenset(
        {
            "bid", "win_price", "click", "click_time", "conversion", "conversion_time",
            "p_click_true", "p_conversion_true", "conversion_delay_true",
        }
    ),
    truth={"click": "p_click_true", "conversion": "p_conversion_true"},
)  # fmt: skip


class SimulatorLogs:
    """Any day, made on demand."""

    meaning = MEANING

    def __init__(self, block: SimulatorSource) -> None:
        self._exchange = Exchange(block)

    def days(self) -> tuple[date, ...] | None:
        """Tell that any day can be made."""
        return None

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Make one day."""
        yield from self._exchange.batches(day)

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Nothing: the block of the pipeline says it all."""
        return ""
