"""Age of warnings, which expire: the number of consecutive nights on which each has occurred."""

from __future__ import annotations

from collections.abc import Set
from datetime import date

from nightbid.gates.result import known_result
from nightbid.night.record import history
from nightbid.night.task import StageTask
from nightbid.partitions import partition_of


def nights_warned(task: StageTask, gate: str, statistics: Set[str]) -> dict[str, int]:
    """Count the consecutive nights, up to the last one, with a finding on each statistic.

    Overridden findings count too, so they expire when the override does. Stopped nights are
    skipped, so that they do not reset the count.

    Args:
        task: Task of tonight's gate.
        gate: Name of the gate.
        statistics: Statistics that warn tonight.

    Returns:
        Statistic → number of nights; 0 if it is new.
    """
    nights = dict.fromkeys(statistics, 0)
    standing = set(statistics)
    earlier = history(task.workspace, task.spec.pipeline, task.night.date, f"gate_{gate}")
    for uri in reversed(earlier):
        result = known_result(task.workspace.at(uri))
        if result is None:
            continue
        standing &= {
            finding["statistic"]
            for finding in result["findings"]
            if of_tonight(finding["part"], partition_of(result["night"]))
        }
        if not standing:
            break
        for statistic in standing:
            nights[statistic] += 1
    return nights


def of_tonight(part: str, night: date) -> bool:
    """Whether a part is of a night's own rows, so that a day in the window warns only once.

    A part starts with a day, or it names a split, or it is empty (the whole data).
    """
    return not part[:1].isdigit() or part.startswith(night.isoformat())
