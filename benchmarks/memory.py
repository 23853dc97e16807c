"""Peak memory and speed of featurizing 1, 4 and 16 million simulator rows.

    python benchmarks/memory.py --rows 1 4 --distinct
    python benchmarks/memory.py --rows --distinct --night 10 50 --set train.epochs=1

Each size runs in its own process, because the peak of a process never falls. `distinct` counts one
column of that many million distinct strings instead, and spills to files above a limit. `night`
runs a night of `ctr` with that many million rows in its window of 14 days, from Parquet files, with
each stage in its own process. With --work, an interrupted night resumes; its finished stages are
printed with almost no seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MILLION = 1_000_000
GROUP = 131_072
DAYS = 14
"""Days in a night's window."""
FEATURES = {
    "ad_id": {"transform": "vocabulary"},
    "user_id": {"transform": "hash", "buckets": 100_000},
    "hour": {"transform": "hour", "column": "time"},
    "ad_rate": {"transform": "target_rate", "columns": ["ad_id"]},
}


def simulated(folder: Path, rows: int) -> None:
    """Write simulated rows in the format of sampling."""
    import numpy as np
    from nightbid.column_parsing import hashes
    from nightbid.config.sources import SimulatorSource
    from nightbid.data.simulator.source import SimulatorLogs

    logs = SimulatorLogs(SimulatorSource(rows_per_day=rows, users=200_000, ads=20_000))
    path = folder / "split=train" / "dt=2026-01-01" / "part-00000.parquet"
    path.parent.mkdir(parents=True)
    writer = None
    for batch in logs.batches(date(2026, 1, 1), GROUP):
        user = hashes(batch["user_id"]).view(np.int64)
        table = pa.table(
            {name: batch[name] for name in ("ad_id", "user_id", "time")}
            | {
                "nb_key": np.arange(len(batch)),
                "nb_label": batch["click"].cast(pa.float32()),
                "nb_weight": np.ones(len(batch), np.float32),
                "nb_time": batch["time"].cast(pa.timestamp("us", "UTC")),
                "nb_user": user,
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()


def featurize(folder: Path) -> None:
    from nightbid.config.pipeline import PipelineSpec, Runner
    from nightbid.features.fitted import Definition
    from nightbid.featurize.groups import groups_of
    from nightbid.featurize.passes import learning, transforming
    from nightbid.featurize.runner import passes_on, threads_of

    spec = PipelineSpec.model_validate(
        {"pipeline": "bench", "features": FEATURES, "columns": {"time": "time"}}
    )
    groups = groups_of(folder / "rows", ["train"])
    fitted, output = str(folder / "fitted"), str(folder / "out")
    Path(output).mkdir()
    runner = Runner()
    threads = threads_of(runner)
    with passes_on(runner) as run_pass:
        run_pass(learning(groups, Definition.of(spec), fitted, threads=threads))
        run_pass(transforming(groups, fitted, output, threads))


def count(folder: Path, distinct: int) -> None:
    import numpy as np
    from nightbid.column_parsing import encode
    from nightbid.features.statistics import TokenCounts
    from nightbid.featurize.passes import SPILL_ABOVE

    counts = TokenCounts(())
    for start in range(0, distinct, GROUP):
        numbers = np.arange(start, min(start + GROUP, distinct))
        tokens = pa.array(np.char.add("https://example/", numbers.astype(str)))
        counts = counts.merge(TokenCounts.of(*encode(tokens))).spill(folder, SPILL_ABOVE)
    assert len(counts.top(100_000, 1)) == min(100_000, distinct)


def measure(what: str, size: int, folder: Path) -> None:
    clock, cpu = time.perf_counter(), time.process_time()
    if what == "distinct":
        count(folder, size)
    else:
        featurize(folder)
    usage = {
        "seconds": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(usage))


def night(millions: float, until: str, changes: list[str], work: str) -> None:
    """Run a night stage by stage, each in its own process, and print the usage of each."""
    from night import Nights
    from nightbid.night.stages import NIGHT

    with tempfile.TemporaryDirectory() as spare:
        folder = Path(work) / f"{millions:g}" if work else Path(spare)
        nights = Nights(folder, int(millions * MILLION / DAYS), DAYS, until)
        options = nights.options(0, "memory", changes)
        print(
            f"\n{'stage':16}{'million':>8}{'seconds':>10}{'CPU s':>10}{'peak MiB':>10}", flush=True
        )
        for stage in NIGHT:
            command = [sys.executable, "-m", "nightbid", *options, "--until", stage.name]
            clock = time.perf_counter()
            child = subprocess.Popen(command, env=nights.environment(), stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            if status:
                sys.exit(f"{stage.name}: exit code {os.waitstatus_to_exitcode(status)}")
            print(
                f"{stage.name:16}{millions:8g}{time.perf_counter() - clock:10,.0f}"
                f"{used.ru_utime + used.ru_stime:10,.0f}{used.ru_maxrss / 1024:10,.0f}",
                flush=True,
            )
            if stage.name == until:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="*", default=[1, 4, 16], help="millions")
    parser.add_argument("--distinct", type=float, nargs="*", default=[1, 10], help="millions")
    parser.add_argument("--night", type=float, nargs="*", default=[], help="millions")
    parser.add_argument("--until", default="evaluate", help="last stage of the night")
    parser.add_argument("--set", action="append", default=[], help="of the night's pipeline")
    parser.add_argument("--work", default="", help="folder of --night to keep, and to go on from")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case, size, folder = options.one
        if case == "make":
            return simulated(Path(folder) / "rows", int(size))
        return measure(case, int(size), Path(folder))
    print(f"{'':10}{'million':>8}{'per second':>14}{'per CPU s':>14}{'peak MiB':>10}")
    for case, sizes in (("rows", options.rows), ("distinct", options.distinct)):
        for millions in sizes:
            size = int(millions * MILLION)
            with tempfile.TemporaryDirectory() as folder:
                if case == "rows":
                    alone("make", size, folder)
                usage = json.loads(alone(case, size, folder).splitlines()[-1])
            speed = "".join(f"{size / usage[clock]:14,.0f}" for clock in ("seconds", "cpu"))
            print(f"{case:10}{millions:8g}{speed}{usage['peak_mib']:10,.0f}", flush=True)
    for millions in options.night:
        night(millions, options.until, options.set, options.work)
    return None


def alone(what: str, size: int, folder: str) -> str:
    command = [sys.executable, __file__, "--one", what, str(size), folder]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return process.stdout


if __name__ == "__main__":
    main()
