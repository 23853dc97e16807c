"""Prometheus metrics of all processes of one scorer.

Import this module after setting `PROMETHEUS_MULTIPROC_DIR`: the client library then keeps each
value in a file of that folder, so that every process can report the sum.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from nightbid.scorer import shadow_sums

REQUESTS = Counter("nightbid_requests", "Requests answered with scores.", ["endpoint"])
ROWS = Counter("nightbid_rows", "Rows scored.")
REFUSED = Counter("nightbid_refused", "Requests that got an error, by its reason.", ["reason"])
MISSED = Counter(
    "nightbid_lookup_missed", "Feature values that were in no cache and had to be computed."
)
UNPREPARED = Counter(
    "nightbid_unprepared_requests",
    "Requests on the slow path, read column by column: no context, a time in each row, or an"
    " error.",
)
SECONDS = Histogram(
    "nightbid_request_seconds",
    "Time from a request's arrival to its answer, including the queue.",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1, 5),
)
SHADOW_SKIPPED = Counter(
    "nightbid_shadow_unsent", "Answered requests that the shadow did not receive."
)
WAITING = Gauge("nightbid_waiting", "Requests in the queue.", multiprocess_mode="livesum")


class WorkerStates:
    """State of each process of a scorer, in a folder that they share.

    Args:
        folder: Folder with one JSON file per process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written = ""

    def write(self, champion: dict[str, Any] | None, trouble: str) -> None:
        """Write this process's champion and error, if they changed.

        Otherwise touch the file: a cleaner of temporary files removes those that stay unchanged.
        """
        text = json.dumps({"champion": champion, "trouble": trouble})
        path = self.folder / f"{os.getpid()}.json"
        if text == self._written:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
                return
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
        self._written = text

    def read(self) -> list[dict[str, Any]]:
        """Return the state of every live process."""
        states = []
        for path in sorted(self.folder.glob("[0-9]*.json")):
            if _is_alive(int(path.stem)):
                states.append(json.loads(path.read_text()))
            else:
                # Its counters stay. Another process may do the same at the same time.
                with contextlib.suppress(FileNotFoundError):
                    mark_process_dead(path.stem)  # type: ignore[no-untyped-call]
                    path.unlink()
        return states


class _ChampionCollector:
    """Collector for the number of processes that serve each champion."""

    def __init__(self, states: WorkerStates) -> None:
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the current states."""
        labels = ["pipeline", "number", "run_id", "bundle"]
        family = GaugeMetricFamily(
            "nightbid_champion_processes", "Processes that serve a champion.", labels=labels
        )
        counts: dict[tuple[str, ...], int] = {}
        troubled = 0
        for state in self._states.read():
            troubled += bool(state["trouble"])
            if champion := state["champion"]:
                key = tuple(str(champion[name]) for name in labels)
                counts[key] = counts.get(key, 0) + 1
        for key, count in counts.items():
            family.add_metric(list(key), count)
        yield family
        yield GaugeMetricFamily(
            "nightbid_troubled_processes",
            "Processes that cannot serve the newest champion.",
            value=troubled,
        )


class _ShadowCollector:
    """Collector for the differences between champion and shadow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Read the current sums."""
        sums = shadow_sums.read(self._folder)
        if sums is None:
            return
        for name, documentation, value in (
            ("skipped", "Requests that the shadow did not score: too many waited.", sums.skipped),
            ("failed", "Requests that the shadow could not score.", sums.failed),
        ):
            yield CounterMetricFamily(f"nightbid_shadow_{name}", documentation, value=value)
        labels = ["champion", "shadow", "run_id"]
        for name, documentation in SHADOW_SUMS.items():
            family = CounterMetricFamily(f"nightbid_shadow_{name}", documentation, labels=labels)
            for pair in sums.pairs.values():
                family.add_metric([str(pair.champion), pair.shadow, pair.run_id],
                                  getattr(pair, name))  # fmt: skip
            yield family
        most = GaugeMetricFamily(
            "nightbid_shadow_largest_difference",
            "Largest difference of a probability.",
            labels=labels,
        )
        for pair in sums.pairs.values():
            most.add_metric([str(pair.champion), pair.shadow, pair.run_id], pair.largest_difference)
        yield most


SHADOW_SUMS = {
    "requests": "Requests that both champion and shadow scored.",
    "rows": "Rows of the requests that both scored.",
    "champion_sum": "Sum of the champion's probabilities.",
    "shadow_sum": "Sum of the shadow's probabilities.",
    "difference_sum": "Sum of absolute differences of probabilities.",
    "ordered": "Requests of two rows or more.",
    "winners_changed": "Requests for which champion and shadow rank a different row first.",
    "tau_sum": "Sum of Kendall's tau over requests.",
    "taus": "Requests whose Kendall's tau is known.",
}


def exposition(states: WorkerStates) -> bytes:
    """Return all metrics in Prometheus' text format, summed over processes."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_ChampionCollector(states))
    registry.register(_ShadowCollector(states.folder))
    return generate_latest(registry)


def totals(names: Iterable[str]) -> dict[str, int]:
    """Sum counters over labels and processes."""
    registry = CollectorRegistry()
    collector = MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    sums = dict.fromkeys(names, 0.0)
    for family in collector.collect():  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.name in sums:
                sums[sample.name] += sample.value
    return {name: int(value) for name, value in sums.items()}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
