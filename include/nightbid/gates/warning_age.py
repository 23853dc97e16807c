"""Warnings expire: for how many nights in a row each has stood."""

from __future__ import annotations

from collections.abc import Set
from datetime import date

from nightbid.gates.result import known_result
from nightbid.night.record import history
from nightbid.night.task import StageTask
from nightbid.partitions import partition_of


def nights_warned(task: StageTask, gate: str, statistics: Set[str]) -> dict[str, int]:
    """Count the nights in a row, up to the last one, that said something of a statistic.

    What somebody let pass counts: it expires when the override does. Nights that were stopped are
    left out, so that the night after one is not a fresh start.

    Args:
        task: of tonight's gate.
        gate: its name.
        statistics: what it warns of tonight.

    Returns:
        Statistic → nights; 0 for what is new.
    """
    nights = dict.fromkeys(statistics, 0)
    standing = set(statistics)
    earlier = history(task.workspace, task.spec.pipeline, task.night.date, f"gate_{gate}")
    for uri in reversed(earlier):
        result = known_result(task.workspace.at(uri))
        if result is None:
            continue
        standing &= {
            each["statistic"]
            for each in result["findings"]
            if of_tonight(each["part"], partition_of(result["night"]))
        }
        if not standing:
            break
        for each in standing:
            nights[each] += 1
    return nights


def of_tonight(part: str, night: date) -> bool:
    """Whether a part is of a night's own rows: a day that stays in the window warns only once.

    Parts begin with a day, or they are a split's or of the whole.
    """
    return not part[:1].isdigit() or part.startswith(night.isoformat())
