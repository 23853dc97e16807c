"""The simulated exchange as a log source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.faults import Fault
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.faults import FaultyRows, apply
from nightbid.data.simulator.impressions import CHUNK, SimulatedExchange
from nightbid.data.source_schema import SourceSchema
from nightbid.errors import MissingDataError
from nightbid.partitions import STEPS, HourPartition

MEANING = SourceSchema(
    outcomes=frozenset(
        {
            "bid", "win_price", "click", "click_time", "conversion", "conversion_time",
            "p_click_true", "p_conversion_true", "conversion_delay_true", "competing_bids",
            "propensity", "candidates", "candidates_true",
        }
    ),
    truth={"click": "p_click_true", "conversion": "p_conversion_true"},
)  # fmt: skip


class SimulatorLogs:
    """Logs of any day from `source.start` on, generated on demand."""

    meaning = MEANING

    def __init__(self, block: SimulatorSource) -> None:
        self._block = block
        self._exchange = SimulatedExchange(block)
        self._faults = [Fault.parse(text) for text in block.faults]

    def days(self) -> tuple[date, ...] | None:
        """None: any day can be generated."""
        return None

    def batches(self, day: date, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """Generate one partition, with the faults of its days.

        Args:
            day: First day or hour of the partition.
            chunk: Maximum number of rows generated at a time.

        Raises:
            MissingDataError: The logs start later, or a fault removes the day.
        """
        if isinstance(day, HourPartition):
            for batch in self._of_day(day.date(), chunk):
                times = batch["time"].cast(pa.timestamp("us"))
                is_mine = pc.equal(
                    pc.floor_temporal(times, unit="hour"), pa.scalar(day, times.type)
                )
                if (rows := batch.filter(is_mine)).num_rows:
                    yield rows
            return
        for later in range(STEPS[self._block.partition].days):
            yield from self._of_day(day + timedelta(days=later), chunk)

    def _of_day(self, day: date, chunk: int) -> Iterator[pa.RecordBatch]:
        """Generate one day, with its faults.

        Args:
            day: `source.start` or later.
            chunk: Maximum number of rows generated at a time; it does not affect the rows.

        Raises:
            MissingDataError: The logs start later, or a fault removes the day.
        """
        faults = [fault for fault in self._faults if fault.day == day]
        if day < self._block.start:
            raise MissingDataError(
                f"there is no day {day}: the logs start on {self._block.start}",
                where="simulator",
                hint="shorten the training window, use a later date, or set source.start earlier",
            )
        if any(fault.kind == "missing_day" for fault in faults):
            raise MissingDataError(
                f"there is no day {day}",
                where="simulator",
                hint="source.faults has a missing_day: remove it, or use another date",
            )
        start = 0
        for batch in self._exchange.batches(day, chunk):
            if not faults:
                yield batch
                continue
            rows = FaultyRows(
                table=pa.Table.from_batches([batch]),
                index=np.arange(start, start + batch.num_rows),
                day=day,
                settings=self._block,
                users=self._exchange.users,
            )
            start += batch.num_rows
            for fault in faults:
                rows = apply(rows, fault)
            yield from rows.table.combine_chunks().to_batches()

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Empty: the `source` block determines the content."""
        return ""

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Faults of the partition's days; everything else is in the `source` block."""
        first = day.date() if isinstance(day, HourPartition) else day
        days = [first + timedelta(days=at) for at in range(STEPS[self._block.partition].days or 1)]
        faults = [text for text in self._block.faults if Fault.parse(text).day in days]
        return {"logs": ", ".join(faults) or "no faults"}
