"""Chaos test: nights are killed, run out of disk and are damaged; nothing may be lost.

    python benchmarks/chaos.py --cases 1000 --out chaos.jsonl     # again: goes on where it ended

Run the command again to continue an interrupted run. Each case disturbs a small night
(`chaos_night.py`), runs it again undisturbed and checks that:

- every stage has the digest of an undisturbed night,
- the champion is this night's bundle and was promoted once,
- every visible output is complete,
- the ledger holds every attempt once.

The seed and the number of the case determine the disturbance: kill -9 before a file operation, a
file system error (ENOSPC, EDQUOT, EIO, EROFS) at consecutive operations, damage to outputs and
ledger files (flip, cut, delete, a copy of another output), two processes that run the same night,
a retired champion, or nights that race each other and a user who rolls back, retires and pauses.
After a race, every promotion must have replaced the champion that it was compared with, and none
may have revived a withdrawn bundle. `chaos_stall.py` has slow file operations and stopped
processes. Any error other than Nightbid's own or the system's is a failure.
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nightbid.cost.ledger import Ledger
from nightbid.errors import NightbidError
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace, fetch, read_manifest

sys.path.insert(0, str(Path(__file__).parent))
import chaos_night

KINDS = ("kill", "error", "damage", "twice", "retire", "race", "slow", "stall")
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
WRITES = frozenset({"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"})
OWN, SYSTEM, OTHER = 3, 4, 5
"""Exit codes of a disturbed process: a Nightbid error, a system error, or a bug."""
SECONDS = 120


class Disturbed:
    """Counts the write operations below a folder, and acts from one of them on."""

    def __init__(self, folder: Path, at: int, act: Callable[[int], None]) -> None:
        self.count = 0
        self._folder, self._at, self._act = str(folder), at, act
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in WRITES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str) and path.startswith(self._folder):
            self.count += 1
            if self.count >= self._at:
                self._act(self.count - self._at)


def kill(_: int) -> None:
    """Kill this process, as a power failure would."""
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int, operations: int) -> Callable[[int], None]:
    """Return an action that raises a file system error at consecutive operations."""

    def act(since: int) -> None:
        if since < operations:
            raise OSError(number, os.strerror(number))

    return act


def in_child(work: Callable[[], None], log: Path) -> int:
    """Start work in a child process.

    Returns:
        Its process id.
    """
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        work()
    except NightbidError as error:
        code = OWN
        log.write_text(str(error))
    except OSError:
        code = SYSTEM
    except BaseException:
        code = OTHER
        log.write_text(traceback.format_exc())
    os._exit(code)


def ended(child: int) -> int:
    """Wait for a process and return its exit code, negative for a signal."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        finished_id, status = os.waitpid(child, os.WNOHANG)
        if finished_id:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"no end within {SECONDS} s")


def damage(workspace: Path, draw: random.Random) -> str:
    """Damage some files of finished outputs and of the ledger; return a description."""
    files = sorted(
        path
        for top in ("stages", "ledger")
        for path in (workspace / top).rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    )
    changes = []
    for path in draw.sample(files, min(len(files), draw.randint(1, 3))):
        content = path.read_bytes()
        how = draw.choice(("flip", "cut", "delete", "other"))
        others = [file for file in files if file.name == path.name and file != path]
        if how == "delete":
            path.unlink()
        elif how == "other" and others:
            # The same file of another output, as after a copy to the wrong place.
            path.write_bytes(draw.choice(others).read_bytes())
        elif how == "cut" or not content:
            path.write_bytes(content[: len(content) // 2])
        else:
            offset = draw.randrange(len(content))
            path.write_bytes(
                content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]
            )
        changes.append(f"{how} {path.relative_to(workspace)}")
    if draw.random() < 0.3:
        # Another output replaces a whole output; each of its files is intact.
        target, copied = draw.sample(sorted((workspace / "stages").glob("*/*/[!.]*")), 2)
        shutil.rmtree(target)
        shutil.copytree(copied, target)
        changes.append(f"{copied.relative_to(workspace)} as {target.relative_to(workspace)}")
    return ", ".join(changes)


def disturb(kind: str, folder: Path, draw: random.Random, operations: int) -> str:
    """Run a night, disturb it and return a description of the disturbance.

    Args:
        kind: One of `KINDS`.
        folder: The case's folder.
        draw: The case's random generator.
        operations: Number of file operations of an undisturbed night.
    """
    workspace, log = folder / "workspace", folder / "traceback.txt"
    operation = draw.randint(1, operations)

    def night() -> None:
        chaos_night.night(workspace)

    if kind in ("kill", "error"):
        number, span = draw.choice(ERRORS), draw.choice((1, 3, 10, operations))

        def hooked() -> None:
            Disturbed(workspace, operation, kill if kind == "kill" else failing(number, span))
            night()

        code = ended(in_child(hooked, log))
        event = f"{kind} at {operation}" + (
            f": {errno.errorcode[number]} x{span}" * (kind == "error")
        )
    elif kind == "damage":
        code = ended(in_child(night, log))
        event = damage(workspace, draw)
    elif kind == "slow":
        import chaos_stall

        event = chaos_stall.slow(night, workspace, log, draw, operations)
        code = 0
    elif kind == "twice":
        children = [in_child(night, log) for _ in range(2)]
        code = max((ended(child) for child in children), key=lambda exit_code: exit_code == OTHER)
        event = "twice at once"
    else:
        code = ended(in_child(night, log))
        pointer = ChampionPointer(Workspace(str(workspace)), "p")
        pointer.retire(1, "chaos", by="chaos")
        event = "retired"
    assert code != OTHER, log.read_text()
    return event


def check(workspace: Path, expected: dict[str, str], *, withdrawn: bool, lost: int) -> None:
    """Check the workspace after the rerun.

    Args:
        workspace: The case's workspace.
        expected: Maps each stage to its digest in an undisturbed night.
        withdrawn: Whether a user withdrew the bundle; then no bundle may serve.
        lost: Number of ledger files that the case itself damaged.
    """
    place = Workspace(str(workspace))
    run = RunRecord.load(place, "p", chaos_night.RUN)
    for manifest in (workspace / "stages").rglob("manifest.json"):
        if not manifest.parent.name.startswith("."):
            fetch(place.root / manifest.parent.relative_to(workspace).as_posix())
    for output in (workspace / "stages").glob("*/*/[!.]*"):
        assert (output / "manifest.json").exists(), f"{output.name} has no manifest"
    for stage, digest in expected.items():
        record = run.stage(stage)
        assert record is not None, stage
        assert record.state == "done", f"{stage}: {record.error}"
        assert read_manifest(place.at(record.uri)).digest == digest, f"{stage} differs"
    history = ChampionPointer(place, "p").history()
    promoted = [change for change in history if change.change == "promote"]
    assert len(promoted) == 1, f"{len(promoted)} promotions"
    assert promoted[0].bundle_digest == expected["export"]
    assert history[-1].serves is not withdrawn
    entries = Ledger(place, lenient=True).entries()
    keys = [record.key for record in entries]
    assert len(keys) == len(set(keys)), "an entry is counted twice"
    if not lost:
        entered = {(record.stage, record.attempt) for record in entries}
        used = {(record.stage, record.attempt) for record in run.records() if not record.reused}
        assert used <= entered, f"not in the ledger: {sorted(used - entered)}"


def case(number: int, seed: int, expected: dict[str, str], operations: int) -> dict[str, Any]:
    """Run one case and return a record of the disturbance and of any failure."""
    import chaos_race
    import chaos_stall

    draw = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
    event = ""
    try:
        if kind == "race":
            event = chaos_race.race(folder / "workspace", folder / "traceback.txt", draw)
            chaos_race.check_race(Workspace(str(folder / "workspace")))
            return {"case": number, "kind": kind, "what": event, "failure": ""}
        if kind == "stall":
            event = chaos_stall.play(folder, draw, operations)
            return {"case": number, "kind": kind, "what": event, "failure": ""}
        event = disturb(kind, folder, draw, operations)
        log = folder / "rerun.txt"
        code = ended(in_child(lambda: chaos_night.night(folder / "workspace"), log))
        assert code == 0, log.read_text() if log.exists() else f"the rerun ended with {code}"
        check(folder / "workspace", expected, withdrawn=kind == "retire",
              lost=event.count("ledger/"))  # fmt: skip
        failure = ""
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"case": number, "kind": kind, "what": event, "failure": failure}


def reference() -> tuple[dict[str, str], int]:
    """Return the stage digests of an undisturbed night and its number of file operations."""
    folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
    try:
        workspace, log = folder / "workspace", folder / "traceback.txt"
        # Imports and digests that happen here are not repeated in each child.
        chaos_night.night(folder / "first")

        def counted() -> None:
            watch = Disturbed(workspace, sys.maxsize, kill)
            chaos_night.night(workspace)
            (folder / "operations").write_text(str(watch.count))

        code = ended(in_child(counted, log))
        assert code == 0, log.read_text() if log.exists() else code
        run = RunRecord.load(Workspace(str(workspace)), "p", chaos_night.RUN)
        digests = {}
        for stage in chaos_night.stages():
            record = run.stage(stage.name)
            assert record is not None
            digests[stage.name] = read_manifest(run.workspace.at(record.uri)).digest
        return digests, int((folder / "operations").read_text())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_processes(
    count: int, seed: int, done: Callable[[int], bool]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Run the in-process cases that have not run yet.

    Args:
        count: Number of cases.
        seed: Seed of the disturbances.
        done: Tells whether a case has already run.
    """
    expected, operations = reference()
    for number in range(count):
        if not done(number):
            yield case(number, seed, expected, operations)


def main() -> None:
    """Run the cases that are missing in the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("chaos.jsonl"))
    parser.add_argument("--airflow", action="store_true", help="nights of a real Airflow")
    parser.add_argument("--bucket", action="store_true", help="of it, in an object store")
    parser.add_argument("--pipelines", type=int, default=2, choices=(1, 2), help="of --airflow")
    parser.add_argument("--clock", action="store_true", help="nights whose clock jumps")
    parser.add_argument("--edit", action="store_true", help="nights whose YAML is edited")
    parser.add_argument(
        "--interleavings",
        type=int,
        metavar="N",
        help="N cases of nights, a backfill, a person and an edited YAML at once",
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after these")
    options = parser.parse_args()
    started = time.monotonic()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done: dict[int | str, dict[str, Any]] = {
        record["case"]: record for record in map(json.loads, lines)
    }
    if options.airflow:
        import chaos_airflow

        cases = chaos_airflow.cases(
            options.cases, options.seed, done.__contains__,
            bucket=options.bucket, pipelines=options.pipelines,
        )  # fmt: skip
    elif options.interleavings:
        import chaos_interleave

        cases = chaos_interleave.cases(options.interleavings, options.seed, done.__contains__)
    elif options.edit:
        import chaos_edit

        cases = chaos_edit.cases(options.cases, options.seed, done.__contains__)
    elif options.clock:
        import chaos_clock

        cases = chaos_clock.cases(options.cases, options.seed, done.__contains__)
    else:
        cases = in_processes(options.cases, options.seed, done.__contains__)
    with options.out.open("a") as report:
        for record in cases:
            done[record["case"]] = record
            report.write(json.dumps(record) + "\n")
            report.flush()
            if time.monotonic() - started > 60 * options.minutes:
                break
    failed = [record for record in done.values() if record["failure"]]
    counts = Counter(record["kind"] for record in done.values())
    messages = [
        f"case {record['case']} ({record['what']}): {record['failure']}" for record in failed
    ]
    if promotions := sum(record.get("promotions", 0) for record in done.values()):
        messages.append(
            f"{promotions} champions, each compared with its predecessor in a sound case"
        )
    messages.append(f"{len(done)} cases ({dict(counts)}), {len(failed)} failed")
    sys.stdout.write("\n".join(messages) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
