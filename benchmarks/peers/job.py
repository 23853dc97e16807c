"""The job that every engine runs, and its report; standard library only.

Analyze computes the mean and deviation (even columns) or the quartiles (odd columns) of ln(1 + x)
of 13 numbers, and the 100,000 most frequent values, seen at least twice, of 26 strings. Transform
scales the numbers, maps the strings to ids (0 is missing, 1 is out of vocabulary), and writes them
with the row's own columns as Parquet. Each engine writes its fitted state in its own format;
`check` lets the caller compare it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

NUMBERS = [f"n{number}" for number in range(13)]
TEXTS = [f"c{number}" for number in range(26)]
STANDARD, ROBUST = NUMBERS[::2], NUMBERS[1::2]
OWN = ["nb_key", "nb_label", "nb_weight", "nb_time", "nb_user"]
TOP_K, MIN_COUNT = 100_000, 2
THREADS = 2

Step = Callable[[list[str], Path], dict[str, float]]
"""Takes files and the engine's own folder; returns figures to compare."""


def main(analyze: Step, transform: Step) -> None:
    """Run one step as `engine.py STEP WORK FILE…`; the last line printed is JSON."""
    step, work, files = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    work.mkdir(parents=True, exist_ok=True)
    clock, cpu = time.perf_counter(), time.process_time()
    check = {"analyze": analyze, "transform": transform}[step](files, work)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - clock,
                "cpu": time.process_time() - cpu,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "check": check,
            }
        )
    )
