"""The simulator at 1, 4 and 16 million rows a day: rows per second and peak memory.

    python benchmarks/simulator.py            # or: --rows 1 4

Each size runs in a process of its own, because the peak of a process never falls. `floor` is the
peak of a process that made a hundred rows: what the libraries and the users' tables take.
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
    # The first batch imports the libraries and makes the users: the same for any number of rows.
    started, cpu = time.perf_counter(), time.process_time()
    made = sum(batch.num_rows for batch in batches)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = {"per_second": made / seconds, "per_cpu_second": made / cpu} if made else {}
    print(json.dumps({"rows": first + made, "seconds": seconds, "peak_mib": peak, **rates}))


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
    for rows in [100, *(int(each * MILLION) for each in options.rows)]:
        command = [sys.executable, __file__, "--measure", str(rows)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        floor = floor or found["peak_mib"]
        print(
            f"{found['rows']:>12,} {found['seconds']:>9.2f} {found.get('per_second', 0):>10,.0f}"
            f" {found.get('per_cpu_second', 0):>10,.0f} {found['peak_mib']:>9.0f}"
            f" {found['peak_mib'] - floor:>10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
