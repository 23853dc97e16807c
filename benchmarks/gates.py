"""Every fault of the simulator against every gate, and the false stops of clean nights.

    python benchmarks/gates.py --seed 101                        # the matrix, then 60 clean nights
    python benchmarks/gates.py --faults stale_join,label_leak    # a part of the matrix alone
    python benchmarks/gates.py --faults none --nights 20         # clean nights alone

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
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from nightbid.champion import ChampionPointer
from nightbid.config.faults import FAULTS
from nightbid.config.load import load_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import GateStopped, NightbidError
from nightbid.nightly import NIGHT
from nightbid.runs import RunRecord
from nightbid.stage import Stage, run_stage
from nightbid.workspace import Workspace

PIPELINE = Path(__file__).parents[1] / "include" / "pipelines" / "ctr.yaml"
CHEAP = ("model.architecture=logistic_regression", "model.embedding_dim=4", "train.epochs=1")
STAGES = {stage.name: stage for stage in NIGHT}
JUDGED = tuple(STAGES[name] for name in list(STAGES)[: list(STAGES).index("gate_model") + 1])
GATES = tuple(stage.name for stage in JUDGED if stage.is_gate)
BEFORE_TRAINING = [stage.name for stage in JUDGED][: [s.name for s in JUDGED].index("train")]


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
    """A workspace with its simulator."""

    root: Path
    rows: int
    seed: int
    cache: Path

    def spec(self, faults: tuple[str, ...] = ()) -> PipelineSpec:
        """The pipeline, with faults."""
        return load_pipeline(
            PIPELINE,
            (
                *CHEAP,
                f"source.rows_per_day={self.rows}",
                f"source.seed={self.seed}",
                f"source.faults=[{', '.join(faults)}]",
            ),
        )

    @property
    def first(self) -> date:
        """First night that has a whole window."""
        spec = self.spec()
        window = spec.window
        days = window.train_days + window.validate_days + window.evaluate_days
        return spec.source.start + timedelta(days=days - 1)

    def branch(self, name: str) -> Bench:
        """A copy that shares the outputs of stages, which nobody changes, and nothing else."""
        copy = self.root.parent / name
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        (copy / "stages").symlink_to((self.root / "stages").resolve())
        for folder in ("runs", "champion"):
            if (self.root / folder).exists():
                shutil.copytree(self.root / folder, copy / folder)
        return Bench(copy, self.rows, self.seed, self.cache)

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
        for stage in JUDGED:
            try:
                result = run_stage(stage, spec, run, cache_folder=self.cache)
                said, summary = str(result.manifest.verdict), result.manifest.summary
                verdict = result.manifest.metrics.get("verdict", verdict)
            except GateStopped as stop:
                said, summary = "stop", stop.what
            except NightbidError as error:
                said, summary = "refused", str(error)
            if stage.is_gate or said == "refused":
                judged.said[stage.name] = said
                judged.summaries[stage.name] = summary
            if said in ("stop", "refused"):
                judged.first = judged.first or stage.name
                if said == "refused" or not through:
                    return judged
        if not judged.first and verdict != "worse":
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


def matrix(bench: Bench, kinds: list[str], history: int, later: int) -> None:
    """Print what each gate says of each fault."""
    for number in range(history):
        judged = bench.night(bench.first + timedelta(days=number), through=False)
        if judged.first:
            print(f"clean night {number}: {judged.first}: {judged.summaries[judged.first]}")
    newest = bench.first + timedelta(days=history)
    print(f"seed {bench.seed}, {bench.rows:,} rows a day, {history} clean nights before the fault")
    heads = [name.removeprefix("gate_") for name in GATES]
    print(f"\n{'fault':28}" + "".join(f"{head:10}" for head in heads) + "ended by            night")
    caught, early = 0, 0
    for kind in kinds:
        branch = bench.branch(f"fault-{kind}")
        fault = (f"{kind}@{newest}",)
        judged = branch.night(newest, fault, through=True)
        ended, night = judged.first, 0
        caught += bool(ended)
        early += ended in BEFORE_TRAINING
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


def clean(bench: Bench, nights: int) -> None:
    """Print how often clean nights stop."""
    counts = dict.fromkeys(("pass", "warn", "stop", "refused"), 0)
    started = time.perf_counter()
    for number in range(nights):
        newest = bench.first + timedelta(days=number)
        judged = bench.night(newest, through=False)
        worst = max(judged.said.values(), key=list(counts).index)
        counts[worst] += 1
        for gate, said in judged.said.items():
            if said != "pass":
                print(f"  {newest} {gate} {said}: {judged.summaries[gate]}", flush=True)
    seconds = (time.perf_counter() - started) / nights
    stops = counts["stop"] + counts["refused"]
    print(
        f"{nights} clean nights (seed {bench.seed}, {bench.rows:,} rows a day): {stops} false stops"
        f" ({stops / nights:.1%}), {counts['warn']} with warnings, {seconds:.1f} s a night"
    )


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--faults", default="all", help="kinds, separated by commas; all; none")
    parser.add_argument("--nights", type=int, default=60, help="clean nights; 0: none")
    parser.add_argument("--rows", type=int, default=20_000, help="rows a day")
    parser.add_argument("--seed", type=int, default=101, help="of the simulator")
    parser.add_argument("--history", type=int, default=5, help="clean nights before a fault")
    parser.add_argument("--later", type=int, default=2, help="nights to wait for a late stop")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    known = list(FAULTS)
    kinds = {"all": known, "none": []}.get(options.faults) or options.faults.split(",")
    kinds = [] if options.faults == "none" else kinds
    if unknown := set(kinds) - set(known):
        parser.error(f"unknown faults {sorted(unknown)}; known: {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "clean", options.rows, options.seed, Path(folder) / "cache")
        bench.root.mkdir()
        if kinds:
            matrix(bench, kinds, options.history, options.later)
        if options.nights:
            # Nights of the matrix's history are reused: the same seed gives the same days.
            clean(bench, options.nights)


if __name__ == "__main__":
    main()
