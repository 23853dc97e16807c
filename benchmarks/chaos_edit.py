"""Chaos test: nights run from the shell race each other while a user edits and rolls back.

    python benchmarks/chaos.py --edit --cases 30 --out chaos.jsonl

Each case starts three to five `nightbid run` at the same time (two of them may name the same run)
and edits the pipeline's YAML meanwhile, sometimes in two writes as some editors do. The case checks
that every champion was compared with its predecessor, that each run has the settings of one YAML in
its record and in every output that it made, that no two nights ran at the same time, and that a
half-written YAML is refused in one line.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

FIRST = dt.date(2026, 1, 8)
SPEC = """pipeline: p
source: {{kind: simulator}}
features: {{ad_id: {{min_count: 5}}}}
train: {{epochs: {epochs}}}
"""


def edit(path: Path, draw: random.Random, ended: threading.Event) -> None:
    """Edit a YAML repeatedly, sometimes in one write and sometimes in two."""
    while not ended.wait(draw.uniform(0.1, 1.5)):
        text = SPEC.format(epochs=draw.randint(1, 9))
        if draw.random() < 0.6:
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(path)
        else:
            path.write_text(text[: len(text) // 2])
            ended.wait(0.05)
            path.write_text(text)


def interfere(workspace: Path, draw: random.Random, ended: threading.Event) -> None:
    """Roll back at random times."""
    from nightbid.errors import NightbidError
    from nightbid.night.champion import ChampionPointer
    from nightbid.storage.workspace import Workspace

    while not ended.wait(draw.uniform(1, 5)):
        with suppress(NightbidError):
            ChampionPointer(Workspace(str(workspace)), "p").rollback("chaos", by="chaos")


def start(folder: Path, night: dt.date, run_id: str) -> subprocess.Popen[str]:
    """Start `nightbid run` in a child process."""
    return subprocess.Popen(
        [sys.executable, __file__, "run", "p", "--date", str(night), "--run-id", run_id],
        env={**os.environ, "NIGHTBID_WORKSPACE": str(folder / "workspace"),
             "NIGHTBID_PIPELINES": str(folder / "pipelines"), "NIGHTBID_TRACKING": "",
             "NIGHTBID_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
    )  # fmt: skip


def play(folder: Path, draw: random.Random) -> str:
    """Run the nights of a case, check the workspace and return a description of the nights."""
    from chaos_race import check_race
    from nightbid.storage.workspace import Workspace

    path = folder / "pipelines" / "p.yaml"
    path.parent.mkdir()
    path.write_text(SPEC.format(epochs=1))
    nights = [draw.randint(0, 2) for _ in range(draw.randint(3, 5))]
    runs = [(FIRST + dt.timedelta(days=night), f"night-{night}-{draw.randint(0, 1)}")
             for night in nights]  # fmt: skip
    ended = threading.Event()
    threads = [threading.Thread(target=edit, args=(path, random.Random(draw.random()), ended)),
              threading.Thread(target=interfere, args=(
                  folder / "workspace", random.Random(draw.random()), ended))]  # fmt: skip
    for thread in threads:
        thread.start()
    processes = []
    try:
        for night, run_id in runs:
            processes.append(start(folder, night, run_id))
            ended.wait(draw.uniform(0, 3))
        refused = 0
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert "Traceback" not in output, output[-800:]
            if process.returncode:
                # The error about a half-written or empty YAML names its file; no stage has started.
                assert "p.yaml" in output, output[-1000:]
                refused += 1
    finally:
        ended.set()
        for process in processes:
            process.kill()
        for thread in threads:
            thread.join()
    place = Workspace(str(folder / "workspace"))
    check_race(place)
    check_minds(place)
    return f"{[run_id for _, run_id in runs]}, {refused} refused"


def check_minds(place: Any) -> None:
    """Check that each run used one YAML, and that no two runs overlapped."""
    from nightbid.night.record import RunRecord
    from nightbid.storage.workspace import read_manifest

    spans = []
    for path in (place.root / "runs" / "p").glob("*/run.json"):
        run = RunRecord.load(place, "p", path.parent.name)
        epochs = run.head.spec["train"]["epochs"]  # type: ignore[index]
        records = run.current()
        for stage in ("train", "evaluate", "export"):
            if stage in records:
                # Reused or not, the output of `train` for this run has the settings of its record.
                manifest = read_manifest(place.at(records["train"].uri))
                assert manifest.metrics["epochs"] == epochs, f"{run.run_id} has two minds"
        for record in (record for record in run.records() if not record.reused):
            end = record.started + dt.timedelta(seconds=record.seconds)
            spans.append((record.started, end, run.run_id))
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        assert first == second or end <= begin, f"{first} and {second} were at work at once"


def cases(count: int, seed: int, done: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Run the cases that have not run yet.

    Args:
        count: Number of cases.
        seed: Seed of the nights and edits.
        done: Tells whether a case has already run.
    """
    for number in range(count):
        if done(f"edit-{number}"):
            continue
        what = failure = ""
        with tempfile.TemporaryDirectory(prefix="nightbid-chaos-") as folder:
            try:
                what = play(Path(folder), random.Random(f"{seed} edit {number}"))
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
        yield {"case": f"edit-{number}", "kind": "edit", "what": what, "failure": failure}


def main() -> None:
    """Act as `nightbid` with stages that do trivial work."""
    import chaos_stages

    chaos_stages.install()
    from nightbid.cli import app, night

    # There is no evaluation to report.
    night.verdict_line = night.write_report = lambda run: run.run_id
    app.main()


if __name__ == "__main__":
    main()
