"""Every fault of the simulator against every gate, and the false stops of clean nights.

    python benchmarks/gates.py --seed 101                        # the matrix, then 60 clean nights
    python benchmarks/gates.py --faults stale_join,label_leak    # a part of the matrix alone
    python benchmarks/gates.py --faults none --nights 20         # clean nights alone
    python benchmarks/gates.py --kuairand ../shared/data/kuairand_std_14d     # real nights

The nights are real: the pipeline `ctr` from the simulator through sample, gate_raw, featurize,
gate_features, train, evaluate and gate_model, with a champion (the model is a logistic regression
of one epoch, for speed). The matrix gives what each gate says on the night of the fault, whether or
not an earlier one has stopped it, and which was the first to stop. Where none did, the nights
after it are run: "+2" is a stop two nights late. Limits were never tuned on the seed that a report
uses; it is an argument, and printed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from nightbid.attempt import run_stage
from nightbid.champion import ChampionPointer
from nightbid.config.faults import FAULTS
from nightbid.config.load import load_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.sources import SimulatorSource
from nightbid.data.source import open_source
from nightbid.errors import DataError, GateStopped, StageError
from nightbid.nightly import NIGHT
from nightbid.runs import RunRecord
from nightbid.stage import Stage
from nightbid.workspace import Workspace

PIPELINES = Path(__file__).parents[1] / "include" / "pipelines"
CHEAP = ("model.architecture=logistic_regression", "model.embedding_dim=4", "train.epochs=1")
STAGES = {stage.name: stage for stage in NIGHT}
JUDGED = tuple(STAGES[name] for name in list(STAGES)[: list(STAGES).index("gate_model") + 1])
GATES = tuple(stage.name for stage in JUDGED if stage.is_gate)
BEFORE_TRAINING = JUDGED[: JUDGED.index(STAGES["train"])]


@dataclass
class Judged:
    """What a night came to."""

    said: dict[str, str] = field(default_factory=dict)
    """Gate → pass, warn or stop; a stage that refused its input → refused."""
    first: str = ""
    """Gate or stage that ended the night."""
    summaries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """A workspace with its pipeline."""

    root: Path
    cache: Path
    pipeline: str
    settings: tuple[str, ...]
    stages: tuple[Stage, ...] = JUDGED

    def spec(self, faults: tuple[str, ...] = ()) -> PipelineSpec:
        """The pipeline, with faults."""
        added = (f"source.faults=[{', '.join(faults)}]",) if faults else ()
        return load_pipeline(PIPELINES / f"{self.pipeline}.yaml", (*self.settings, *added))

    def first(self, start: date) -> date:
        """First night that has a whole window."""
        window = self.spec().window
        days = window.train_days + window.validate_days + window.evaluate_days
        return start + timedelta(days=days - 1)

    def branch(self, name: str) -> Bench:
        """A copy that shares the outputs of stages, which nobody changes, and nothing else."""
        copy = self.root.parent / name
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        (copy / "stages").symlink_to((self.root / "stages").resolve())
        for folder in ("runs", "champion"):
            if (self.root / folder).exists():
                shutil.copytree(self.root / folder, copy / folder)
        return replace(self, root=copy)

    def night(self, newest: date, faults: tuple[str, ...] = (), *, through: bool) -> Judged:
        """Run a night up to the gate of the model, and crown it if nothing stopped.

        Args:
            newest: its day.
            faults: `kind@day` each.
            through: also ask the gates behind one that has stopped.
        """
        workspace = Workspace(str(self.root))
        spec = self.spec(faults)
        run = RunRecord.start(workspace, spec, newest)
        judged, verdict = Judged(), ""
        for stage in self.stages:
            try:
                result = run_stage(stage, spec, run, cache_folder=self.cache)
                said, summary = str(result.manifest.verdict), result.manifest.summary
                verdict = result.manifest.metrics.get("verdict", verdict)
            except GateStopped as stop:
                said, summary = "stop", stop.what
            except DataError as error:
                said, summary = "refused", str(error)
            except StageError as error:
                # Not what should catch a fault: it happens only behind a gate that has stopped.
                judged.summaries[stage.name] = str(error)
                judged.said[stage.name] = "failed"
                return judged
            if stage.is_gate or said == "refused":
                judged.said[stage.name] = said
                judged.summaries[stage.name] = summary
            if said in ("stop", "refused"):
                judged.first = judged.first or stage.name
                if said == "refused" or not through:
                    return judged
        if not judged.first and verdict not in ("", "worse"):
            _crown(STAGES["export"], spec, run, self.cache)
        return judged


def _crown(export: Stage, spec: PipelineSpec, run: RunRecord, cache: Path) -> None:
    """Make the night's model the champion, as a promotion would."""
    result = run_stage(export, spec, run, cache_folder=cache)
    ChampionPointer(run.workspace, spec.pipeline).promote(
        run_id=run.run_id,
        night=run.date,
        bundle_uri=result.uri,
        bundle_digest=result.manifest.digest,
        reason="clean",
    )


def matrix(bench: Bench, start: date, kinds: list[str], history: int, later: int) -> None:
    """Print what each gate says of each fault on the night after `history` clean ones."""
    for number in range(history):
        judged = bench.night(start + timedelta(days=number), through=False)
        if judged.first:
            print(f"clean night {number}: {judged.first}: {judged.summaries[judged.first]}")
    newest = start + timedelta(days=history)
    print(f"{history} clean nights before the fault")
    heads = [name.removeprefix("gate_") for name in GATES]
    print(f"\n{'fault':28}" + "".join(f"{head:10}" for head in heads) + "ended by            night")
    caught, early = 0, 0
    for kind in kinds:
        branch = bench.branch(f"fault-{kind}")
        name, colon, amount = kind.partition(":")
        fault = (f"{name}@{newest}{colon}{amount}",)
        judged = branch.night(newest, fault, through=True)
        ended, night = judged.first, 0
        caught += bool(ended)
        early += ended in {stage.name for stage in BEFORE_TRAINING}
        shown = "".join(f"{judged.said.get(name, '-'):10}" for name in GATES)
        summary = judged.summaries.get(ended) or next(
            (judged.summaries[gate] for gate, said in judged.said.items() if said == "warn"), ""
        )
        while not ended and night < later:
            night += 1
            ended = branch.night(newest + timedelta(days=night), fault, through=False).first
        when = f"+{night}" if ended else "never"
        print(f"{kind:28}{shown}{ended or '-':20}{when:6} {summary[:150]}", flush=True)
        shutil.rmtree(branch.root)
    total = len(kinds)
    print(
        f"\nof {total} faults, {early} ({early / total:.0%}) end the night before training and"
        f" {caught} ({caught / total:.0%}) before promotion"
    )


def clean(bench: Bench, start: date, nights: int) -> None:
    """Print how often clean nights stop."""
    counts = dict.fromkeys(("pass", "warn", "stop", "refused", "failed"), 0)
    started = time.perf_counter()
    for number in range(nights):
        newest = start + timedelta(days=number)
        judged = bench.night(newest, through=False)
        worst = max(judged.said.values(), key=list(counts).index)
        counts[worst] += 1
        for gate, said in judged.said.items():
            if said != "pass":
                print(f"  {newest} {gate} {said}: {judged.summaries[gate]}", flush=True)
    seconds = (time.perf_counter() - started) / nights
    stops = counts["stop"] + counts["refused"] + counts["failed"]
    print(
        f"{nights} clean nights: {stops} false stops ({stops / nights:.1%}),"
        f" {counts['warn']} with warnings, {seconds:.1f} s a night"
    )


def real(folder: str, scratch: Path) -> None:
    """Print what the gates of raw logs and of features say of KuaiRand's 14 days."""
    settings = (f"source.folder={folder}", "window.train_days=3", "window.evaluate_days=1")
    bench = Bench(scratch / "real", scratch / "cache", "kuairand_ctr", settings, BEFORE_TRAINING)
    source = open_source(bench.spec().source, bench.cache)
    days = source.days() or ()
    start = bench.first(days[0])
    print(f"KuaiRand, {len(days)} days, judged on the nights from {start} to {days[-1]}")
    clean(bench, start, (days[-1] - start).days + 1)


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--faults", default="all", help="kind[:amount],… or all, none")
    parser.add_argument("--nights", type=int, default=60, help="clean nights; 0: none")
    parser.add_argument("--rows", type=int, default=20_000, help="rows a day")
    parser.add_argument("--seed", type=int, default=101, help="of the simulator")
    parser.add_argument("--history", type=int, default=5, help="clean nights before a fault")
    parser.add_argument("--later", type=int, default=2, help="nights to wait for a late stop")
    parser.add_argument("--kuairand", default="", help="folder of KuaiRand: its nights instead")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    kinds = [] if options.faults == "none" else options.faults.split(",")
    kinds = list(FAULTS) if kinds == ["all"] else kinds
    if unknown := {kind.partition(":")[0] for kind in kinds} - set(FAULTS):
        parser.error(f"unknown faults {sorted(unknown)}; known: {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.kuairand:
            real(options.kuairand, scratch)
            return
        rows, seed = options.rows, options.seed
        print(f"simulator with seed {seed}, {rows:,} rows a day", flush=True)
        settings = (*CHEAP, f"source.rows_per_day={rows}", f"source.seed={seed}")
        bench = Bench(scratch / "clean", scratch / "cache", "ctr", settings)
        start = bench.first(SimulatorSource().start)
        if kinds:
            matrix(bench, start, kinds, options.history, options.later)
        if options.nights:
            # Nights of the matrix's history are reused: the same seed gives the same days.
            clean(bench, start, options.nights)


if __name__ == "__main__":
    main()
