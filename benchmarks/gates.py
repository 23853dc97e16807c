"""Detection of every simulator fault by every gate, and false stops of clean nights.

    python benchmarks/gates.py --seed 101                        # the matrix, then 60 clean nights
    python benchmarks/gates.py --faults stale_join,label_leak    # a part of the matrix alone
    python benchmarks/gates.py --faults none --nights 20         # clean nights alone
    python benchmarks/gates.py --learn --faults nulls:0.05,label_rate:1.2     # small ones
    python benchmarks/gates.py --kuairand ../shared/data/kuairand_std_14d     # real nights
    python benchmarks/gates.py --kuairand FOLDER --bootstrap 500 --repeats 20     # small real ones
    python benchmarks/gates.py --seed 101 --work /tmp/matrix --minutes 10     # goes on where it was

The nights run the real stages of the pipeline `ctr` on simulated logs: sample, gate_raw, featurize,
gate_features, train, evaluate and gate_model, with a champion. For speed, the model is a logistic
regression trained for one epoch. The matrix shows the verdict of each gate on the night of the
fault, even after an earlier gate stopped it, and the first gate that stopped. With --behind
gate_features it covers only the gates before training, which is faster. If no gate stops, the
following nights run too: "+2" is a stop two nights late. The seed is an argument and is printed;
limits were never tuned on the seed of a report. With --learn, 14 nights precede the fault, `gates
propose` learns bands from them as it does for a user, and these bands apply to all later nights.

With --bootstrap, each repeat draws that many rows of every day of KuaiRand with replacement, with
new keys, and runs all nights that the drawn days allow; the first one has no champion. These are
small logs of clean nights, and the model is a logistic regression.

Every finished row becomes a line of `journal.jsonl` in the work folder and is not computed again.
A run that ends early, by `--minutes` or a signal, resumes with the same command. The last run
prints the whole matrix.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gates_nights import BEFORE_TRAINING, CHEAP, GATES, Bench, forget, learned
from nightbid.config.faults import FAULTS
from nightbid.config.sources import KuaiRandSource, SimulatorSource
from nightbid.data.source import open_source

EX_TEMPFAIL = 75


@dataclass
class Journal:
    """Finished rows: one line of JSON each, appended when a row is done."""

    path: Path
    ends: float
    """Value of time.monotonic after which no further row starts."""

    def rows(self) -> dict[str, dict[str, Any]]:
        """Read the rows by name, in the order in which they finished."""
        text = self.path.read_text() if self.path.exists() else ""
        rows_read = [json.loads(line) for line in text.splitlines()]
        return {row["name"]: row for row in rows_read}

    def row(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a finished row, or compute, store and print it."""
        known = self.rows().get(name)
        if known is not None:
            return known
        if time.monotonic() > self.ends:
            print(f"{len(self.rows())} rows so far; the same command goes on from here")
            sys.exit(EX_TEMPFAIL)
        began = time.monotonic()
        row = {"name": name, **make()}
        row["seconds"] = round(time.monotonic() - began, 1)
        row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        with self.path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(f"  {_line(row)}  [{row['seconds']:.0f} s, peak {row['peak_mib']} MiB]", flush=True)
        forget()
        return row


def _line(row: dict[str, Any]) -> str:
    shown = "".join(f"{row['said'].get(name, '-'):10}" for name in GATES)
    return f"{row['name']:28}{shown}{row['ended'] or '-':20}{row['when']:6} {row['why'][:150]}"


def clean(
    bench: Bench, journal: Journal, start: date, numbers: Iterable[int], prefix: str = ""
) -> None:
    """Run clean nights, in order."""

    def night(newest: date) -> dict[str, Any]:
        judged = bench.night(newest)
        why = [f"{gate}: {judged.summaries[gate]}" for gate in judged.said if judged.not_pass(gate)]
        ended = judged.first or next(
            (g for g, state in judged.said.items() if state == "failed"), ""
        )
        return {"said": judged.said, "ended": ended, "when": "", "why": "; ".join(why)}

    for number in numbers:
        newest = start + timedelta(days=number)
        journal.row(f"clean {prefix}{newest}", partial(night, newest))


def matrix(
    bench: Bench, journal: Journal, newest: date, kinds: list[str], later: int, behind: str
) -> None:
    """Run every fault on one night, after the clean nights that have run."""

    def fault(kind: str) -> dict[str, Any]:
        branch = bench.branch("fault")
        name, colon, amount = kind.partition(":")
        faults = (f"{name}@{newest}{colon}{amount}",)
        judged = branch.night(newest, faults, behind=behind)
        ended, nights = judged.first, 0
        warned = next((gate for gate in judged.said if judged.not_pass(gate)), "")
        why = judged.summaries.get(ended or warned, "")
        while not ended and nights < later:
            nights += 1
            ended = branch.night(newest + timedelta(days=nights), faults).first
        shutil.rmtree(branch.root)
        when = f"+{nights}" if ended else "never"
        return {"said": judged.said, "ended": ended, "when": when, "why": why}

    for kind in kinds:
        journal.row(kind, partial(fault, kind))


def report(rows: Iterable[dict[str, Any]]) -> None:
    """Print the matrix and the counts."""
    nights = [row for row in rows if row["name"].startswith("clean ")]
    faults = [row for row in rows if row not in nights]
    heads = [name.removeprefix("gate_") for name in GATES]
    if faults:
        columns = "".join(f"{head:10}" for head in heads)
        print(f"\n{'fault':28}{columns}{'ended by':20}night  because")
        for row in faults:
            print(_line(row))
        before = {stage.name for stage in BEFORE_TRAINING}
        tonight = [row for row in faults if row["ended"] and row["when"] == "+0"]
        early = [row for row in tonight if row["ended"] in before]
        shares = [f"({len(fault_rows) / len(faults):.0%})" for fault_rows in (early, tonight)]
        print(
            f"\nof {len(faults)} faults, {len(early)} {shares[0]} end the night before training and"
            f" {len(tonight)} {shares[1]} before promotion"
        )
    if nights:
        stops = [row for row in nights if row["ended"]]
        warned = [row for row in nights if "warn" in row["said"].values() and not row["ended"]]
        for row in (*stops, *warned):
            print(f"  {row['name']}: {row['why']}")
        share = f"{len(stops) / len(nights):.1%}"
        print(
            f"{len(nights)} clean nights: {len(stops)} false stops ({share}), {len(warned)} with"
            " warnings"
        )
        spent = [row["seconds"] for row in nights]
        peaks = [row["peak_mib"] for row in nights]
        print(
            f"median {np.median(spent):.0f} s a night; peak memory {peaks[0]:,} MiB after the first"
            f" night, {peaks[-1]:,} after the last"
        )


def real(folder: str, learned: int, work: Path, journal: Journal) -> None:
    """Run nights of KuaiRand's 14 days with the pipeline's own model."""
    settings = (f"source.folder={folder}", f"window.train_days={learned}", "window.evaluate_days=1")
    bench = Bench(work / "clean", work / "cache", "kuairand_ctr", settings)
    days = open_source(bench.spec().source, bench.cache).days() or ()
    start = bench.first(days[0])
    print(f"KuaiRand, {len(days)} days, judged on the nights from {start} to {days[-1]}")
    clean(bench, journal, start, range((days[-1] - start).days + 1))


def bootstrapped(folder: str, rows: int, seed: int, into: Path) -> list[date]:
    """Draw rows of every KuaiRand day with replacement, and write them as Parquet files.

    Returns:
        The days, oldest first.
    """
    source = open_source(KuaiRandSource(kind="kuairand", folder=folder), into.parent / "cache")
    days = list(source.days() or ())
    for day in days:
        whole = DRAWN.get(day)
        if whole is None:
            whole = DRAWN[day] = pa.Table.from_batches(source.batches(day))
        draw = np.random.default_rng([seed, rows, day.toordinal()])
        table = whole.take(draw.integers(0, len(whole), rows))
        column = table.column_names.index("impression_id")
        # The keys are distinct and unordered.
        keys = draw.choice(50 * rows, rows, replace=False)
        table = table.set_column(column, "impression_id", pa.array(keys + 1))
        part = into / f"dt={day}"
        part.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part / "part-0.parquet")
    return days


DRAWN: dict[date, pa.Table] = {}
"""Whole days, cached between repeats."""


def small(options: argparse.Namespace, work: Path, journal: Journal) -> None:
    """Run nights of small bootstrapped days; every repeat starts without a champion."""
    rows, learned = options.bootstrap, options.train_days
    print(f"KuaiRand, {rows:,} rows a day drawn with replacement, {options.repeats} repeats")
    for repeat in range(options.repeats):
        place = work / f"repeat{repeat}"
        folder = place / "logs"
        settings = (
            f"source={{kind: parquet, folder: {folder}}}",
            f"window.train_days={learned}",
            "window.evaluate_days=1",
            # Derive the steps from the rows; the YAML's settings suit 80,000 rows a day.
            "train.batch_size=null",
            "train.epochs=null",
            # The refit happens after the gates and does not influence them.
            "train.refit=false",
            *CHEAP[:2],
        )
        days = bootstrapped(options.kuairand, rows, options.seed + repeat, folder)
        bench = Bench(place / "clean", place / "cache", "kuairand_ctr", settings)
        start = bench.first(days[0])
        clean(bench, journal, start, range((days[-1] - start).days + 1), prefix=f"{repeat:03}: ")
        shutil.rmtree(place)


def simulated(options: argparse.Namespace, kinds: list[str], work: Path, journal: Journal) -> None:
    """Run the matrix, and clean nights before and after it."""
    rows, seed = options.rows, options.seed
    print(f"simulator with seed {seed}, {rows:,} rows a day", flush=True)
    settings = (*CHEAP, f"source.rows_per_day={rows}", f"source.seed={seed}")
    bench = Bench(work / "clean", work / "cache", "ctr", settings)
    start = bench.first(SimulatorSource().start)
    first = 0
    if kinds or options.learn:
        clean(bench, journal, start, range(options.history))
    if options.learn:
        bench, first = learned(bench, work, options.history), options.history
    if kinds:
        newest = start + timedelta(days=options.history)
        matrix(bench, journal, newest, kinds, options.later, options.behind)
    clean(bench, journal, start, range(first, first + options.nights))


def main() -> None:
    """Read the arguments, run what is missing and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--faults", default="all", help="kind[:amount],… or all, none")
    parser.add_argument("--nights", type=int, default=60, help="clean nights; 0: none")
    parser.add_argument("--rows", type=int, default=20_000, help="rows a day")
    parser.add_argument("--seed", type=int, default=101, help="of the simulator")
    parser.add_argument("--history", type=int, help="clean nights before a fault (5; learning 14)")
    parser.add_argument("--learn", action="store_true", help="bands from the nights before a fault")
    parser.add_argument("--later", type=int, default=2, help="nights to wait for a late stop")
    parser.add_argument(
        "--behind", choices=GATES, default=GATES[-1], help="ask up to this gate after a stop"
    )
    parser.add_argument("--kuairand", default="", help="folder of KuaiRand: its nights instead")
    parser.add_argument("--bootstrap", type=int, default=0, help="rows a day drawn of KuaiRand's")
    parser.add_argument("--repeats", type=int, default=10, help="draws of --bootstrap")
    parser.add_argument("--train-days", type=int, default=4, help="of each night of KuaiRand")
    parser.add_argument("--work", default="", help="folder to keep, and to go on from")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no row after these")
    options = parser.parse_args()
    options.history = options.history or (14 if options.learn else 5)
    logging.getLogger().setLevel(logging.ERROR)
    # Print a traceback when native code crashes.
    faulthandler.enable()
    kinds = [] if options.faults == "none" else options.faults.split(",")
    kinds = list(FAULTS) if kinds == ["all"] else kinds
    if unknown := {kind.partition(":")[0] for kind in kinds} - set(FAULTS):
        parser.error(f"unknown faults {sorted(unknown)}; known: {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(options.work or folder)
        work.mkdir(parents=True, exist_ok=True)
        arguments = json.dumps(
            [
                *(options.kuairand, options.train_days, options.seed, options.rows),
                *(options.history, options.learn, options.bootstrap),
            ]
        )
        arguments_file = work / "asked.json"
        if arguments_file.exists() and arguments_file.read_text() != arguments:
            parser.error(f"{work} holds a run of {arguments_file.read_text()}, not of {arguments}")
        arguments_file.write_text(arguments)
        journal = Journal(work / "journal.jsonl", time.monotonic() + 60 * options.minutes)
        if options.bootstrap:
            small(options, work, journal)
        elif options.kuairand:
            real(options.kuairand, options.train_days, work, journal)
        else:
            simulated(options, kinds, work, journal)
        report(journal.rows().values())


if __name__ == "__main__":
    main()
