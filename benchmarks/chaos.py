"""Nights that are killed, starved of disk and damaged at seeded moments; nothing may be lost.

    python benchmarks/chaos.py --cases 1000 --out chaos.jsonl     # again: goes on where it ended

Each case disturbs a small night (`chaos_night.py`), then runs it again undisturbed and checks:
every stage ends with the digest of a night that nobody disturbed, the champion is this night's
bundle and was promoted once, every output that is visible is whole, and every attempt is in the
ledger once. Disturbances are drawn from the seed and the case's number: kill -9 before a file
operation, an error of the file system (ENOSPC, EDQUOT, EIO, EROFS) at some operations on end,
damage (flip, cut, delete, copies of another output) to outputs and files of the ledger, two
processes at one night, a retired champion, and nights that race each other and a person who rolls
back, retires and pauses: then every promotion must have replaced the champion that it was judged
against, and revived nothing that was withdrawn. Slow file operations and processes that stand still
are in `chaos_stall.py`. An error of any kind but Nightbid's own or the
system's is a failure.
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
"""Exit codes of a disturbed process: an error of Nightbid's own, of the system, or a fault."""
SECONDS = 120


class Disturbed:
    """Counts the file operations below a folder that write, and acts at one of them."""

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
    """As a machine that loses its power."""
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int, operations: int) -> Callable[[int], None]:
    """An error of the file system at so many operations on end."""

    def act(since: int) -> None:
        if since < operations:
            raise OSError(number, os.strerror(number))

    return act


def in_child(work: Callable[[], None], log: Path) -> int:
    """Start work in a process of its own.

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
    """Wait for a process; its exit code, negative for a signal."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"no end within {SECONDS} s")


def damage(workspace: Path, draw: random.Random) -> str:
    """Damage some files of finished outputs and of the ledger; says how."""
    found = sorted(
        path
        for top in ("stages", "ledger")
        for path in (workspace / top).rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    )
    said = []
    for path in draw.sample(found, min(len(found), draw.randint(1, 3))):
        content = path.read_bytes()
        how = draw.choice(("flip", "cut", "delete", "other"))
        others = [each for each in found if each.name == path.name and each != path]
        if how == "delete":
            path.unlink()
        elif how == "other" and others:
            # The same file of another output, as a copy to the wrong place leaves it.
            path.write_bytes(draw.choice(others).read_bytes())
        elif how == "cut" or not content:
            path.write_bytes(content[: len(content) // 2])
        else:
            at = draw.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        said.append(f"{how} {path.relative_to(workspace)}")
    if draw.random() < 0.3:
        # A whole output in the place of another one, each of its files sound.
        one, other = draw.sample(sorted((workspace / "stages").glob("*/*/[!.]*")), 2)
        shutil.rmtree(one)
        shutil.copytree(other, one)
        said.append(f"{other.relative_to(workspace)} as {one.relative_to(workspace)}")
    return ", ".join(said)


def disturb(kind: str, folder: Path, draw: random.Random, operations: int) -> str:
    """Run a night that something happens to; says what.

    Args:
        kind: One of `KINDS`.
        folder: Of the case.
        draw: Of the case.
        operations: File operations of an undisturbed night.
    """
    workspace, log = folder / "workspace", folder / "traceback.txt"
    at = draw.randint(1, operations)

    def night() -> None:
        chaos_night.night(workspace)

    if kind in ("kill", "error"):
        number, span = draw.choice(ERRORS), draw.choice((1, 3, 10, operations))

        def hooked() -> None:
            Disturbed(workspace, at, kill if kind == "kill" else failing(number, span))
            night()

        code = ended(in_child(hooked, log))
        what = f"{kind} at {at}" + (f": {errno.errorcode[number]} x{span}" * (kind == "error"))
    elif kind == "damage":
        code = ended(in_child(night, log))
        what = damage(workspace, draw)
    elif kind == "slow":
        import chaos_stall

        what = chaos_stall.slow(night, workspace, log, draw, operations)
        code = 0
    elif kind == "twice":
        children = [in_child(night, log) for _ in range(2)]
        code = max((ended(child) for child in children), key=lambda each: each == OTHER)
        what = "twice at once"
    else:
        code = ended(in_child(night, log))
        pointer = ChampionPointer(Workspace(str(workspace)), "p")
        pointer.retire(1, "chaos", by="chaos")
        what = "retired"
    assert code != OTHER, log.read_text()
    return what


def check(workspace: Path, expected: dict[str, str], *, withdrawn: bool, lost: int) -> None:
    """Check what is there after the rerun.

    Args:
        workspace: Of the case.
        expected: Stage → digest of an undisturbed night.
        withdrawn: Whether a person withdrew the bundle: then nothing may serve.
        lost: Files of the ledger that the case has damaged itself.
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
    promoted = [each for each in history if each.change == "promote"]
    assert len(promoted) == 1, f"{len(promoted)} promotions"
    assert promoted[0].bundle_digest == expected["export"]
    assert history[-1].serves is not withdrawn
    entries = Ledger(place, lenient=True).entries()
    keys = [each.key for each in entries]
    assert len(keys) == len(set(keys)), "an entry is counted twice"
    if not lost:
        entered = {(each.stage, each.attempt) for each in entries}
        used = {(each.stage, each.attempt) for each in run.records() if not each.reused}
        assert used <= entered, f"not in the ledger: {sorted(used - entered)}"


def case(number: int, seed: int, expected: dict[str, str], operations: int) -> dict[str, Any]:
    """Run one case; its record says what happened and whether everything held."""
    import chaos_race
    import chaos_stall

    draw = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
    what = ""
    try:
        if kind == "race":
            what = chaos_race.race(folder / "workspace", folder / "traceback.txt", draw)
            chaos_race.check_race(Workspace(str(folder / "workspace")))
            return {"case": number, "kind": kind, "what": what, "failure": ""}
        if kind == "stall":
            what = chaos_stall.play(folder, draw, operations)
            return {"case": number, "kind": kind, "what": what, "failure": ""}
        what = disturb(kind, folder, draw, operations)
        log = folder / "rerun.txt"
        code = ended(in_child(lambda: chaos_night.night(folder / "workspace"), log))
        assert code == 0, log.read_text() if log.exists() else f"the rerun ended with {code}"
        check(folder / "workspace", expected, withdrawn=kind == "retire",
              lost=what.count("ledger/"))  # fmt: skip
        failure = ""
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"case": number, "kind": kind, "what": what, "failure": failure}


def reference() -> tuple[dict[str, str], int]:
    """Digests of an undisturbed night, and how many file operations it takes."""
    folder = Path(tempfile.mkdtemp(prefix="nightbid-chaos-"))
    try:
        workspace, log = folder / "workspace", folder / "traceback.txt"
        # What is imported and digested here, no child has to.
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
    """Run the cases of processes of their own that are not done yet.

    Args:
        count: How many there are.
        seed: Of their disturbances.
        done: Whether a case has been run before.
    """
    expected, operations = reference()
    for number in range(count):
        if not done(number):
            yield case(number, seed, expected, operations)


def main() -> None:
    """Run the cases that the report does not have yet."""
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
    asked = parser.parse_args()
    begun = time.monotonic()
    lines = asked.out.read_text().splitlines() if asked.out.exists() else []
    done: dict[int | str, dict[str, Any]] = {each["case"]: each for each in map(json.loads, lines)}
    if asked.airflow:
        import chaos_airflow

        found = chaos_airflow.cases(
            asked.cases, asked.seed, done.__contains__,
            bucket=asked.bucket, pipelines=asked.pipelines,
        )  # fmt: skip
    elif asked.interleavings:
        import chaos_interleave

        found = chaos_interleave.cases(asked.interleavings, asked.seed, done.__contains__)
    elif asked.edit:
        import chaos_edit

        found = chaos_edit.cases(asked.cases, asked.seed, done.__contains__)
    elif asked.clock:
        import chaos_clock

        found = chaos_clock.cases(asked.cases, asked.seed, done.__contains__)
    else:
        found = in_processes(asked.cases, asked.seed, done.__contains__)
    with asked.out.open("a") as report:
        for each in found:
            done[each["case"]] = each
            report.write(json.dumps(each) + "\n")
            report.flush()
            if time.monotonic() - begun > 60 * asked.minutes:
                break
    failed = [each for each in done.values() if each["failure"]]
    counts = Counter(each["kind"] for each in done.values())
    said = [f"case {each['case']} ({each['what']}): {each['failure']}" for each in failed]
    if promotions := sum(each.get("promotions", 0) for each in done.values()):
        said.append(f"{promotions} champions, each compared with its predecessor in a sound case")
    said.append(f"{len(done)} cases ({dict(counts)}), {len(failed)} failed")
    sys.stdout.write("\n".join(said) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
