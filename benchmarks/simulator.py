"""Speed and peak memory of the simulator at 1, 4 and 16 million rows a day.

    python benchmarks/simulator.py            # or: --rows 1 4

Each size runs in its own process, because the peak of a process never falls. `floor` is the peak of
a process that made a hundred rows, which is the memory of the libraries and the users' tables.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import date

MILLION = 1_000_000


def measure(rows: int) -> None:
    import pyarrow as pa
    from nightbid.config.sources import SimulatorSource
    from nightbid.data.simulator.source import SimulatorLogs

    pa.set_cpu_count(1)
    logs = SimulatorLogs(SimulatorSource(rows_per_day=rows, users=200_000, ads=20_000))
    batches = logs.batches(date(2026, 1, 1))
    first = next(batches).num_rows
    # The first batch imports the libraries and makes the users; its cost does not grow with rows.
    started, cpu = time.perf_counter(), time.process_time()
    row_count = sum(batch.num_rows for batch in batches)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = (
        {"per_second": row_count / seconds, "per_cpu_second": row_count / cpu} if row_count else {}
    )
    print(json.dumps({"rows": first + row_count, "seconds": seconds, "peak_mib": peak, **rates}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1, 4, 16], help="millions")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print(
        f"{'rows':>12} {'seconds':>9} {'rows/s':>10} {'per CPU s':>10} {'peak MiB':>9} over floor"
    )
    floor = 0.0
    for rows in [100, *(int(millions * MILLION) for millions in options.rows)]:
        command = [sys.executable, __file__, "--measure", str(rows)]
        usage = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        floor = floor or usage["peak_mib"]
        print(
            f"{usage['rows']:>12,} {usage['seconds']:>9.2f} {usage.get('per_second', 0):>10,.0f}"
            f" {usage.get('per_cpu_second', 0):>10,.0f} {usage['peak_mib']:>9.0f}"
            f" {usage['peak_mib'] - floor:>10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
