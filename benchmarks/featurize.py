"""Featurization speed, ours and the peers', on the same rows: ratios of interleaved runs.

    python benchmarks/featurize.py                     # 1 million rows, 3 rounds
    python benchmarks/featurize.py --rows 4 --only ours duckdb

Every engine runs the job of `benchmarks/peers/job.py` in its own process, one after another, round
by round; the best time of each counts, without imports. Engines that Nightbid does not depend on
have their own environments in the user's cache folder. An engine that cannot be installed is left
out, and the reason is printed. The row-at-a-time engine gets fewer rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import criteo

PEERS = Path(__file__).parent / "peers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nightbid-benchmarks"
MILLION = 1_000_000
STEPS = ("analyze", "transform")
CHECKED = ("tokens", "rows", "center n0", "center n1")


@dataclass(frozen=True)
class Engine:
    """An implementation of the job."""

    script: str
    packages: tuple[str, ...] = ()
    """Packages of its own environment; without any, it runs in ours."""
    rows: int = 0
    """Number of rows it gets; 0 means all."""


FRAMES = ("polars", "duckdb", "pyarrow")
ENGINES = {
    "ours": Engine("ours.py"),
    "row at a time": Engine("rows.py", rows=160_000),
    "tensorflow-transform": Engine(
        "tft.py", ("tensorflow-transform==1.21.0", "apache-beam==2.77.0")
    ),
    "polars": Engine("polars_.py", FRAMES),
    "duckdb": Engine("duckdb_.py", FRAMES),
    "parquet alone": Engine("parquet.py"),
}


def python_of(engine: Engine) -> str:
    """Return the interpreter of the engine's environment, and install it if needed.

    Raises:
        RuntimeError: The environment cannot be installed.
    """
    if not engine.packages:
        return sys.executable
    folder = CACHE / "-".join(package.split("=")[0] for package in engine.packages)
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        uv = Path(sys.executable).parent / "uv"
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder],
            [uv, "pip", "install", "--quiet", "--python", python, *engine.packages],
        ):
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            if process.returncode:
                raise RuntimeError(process.stderr.strip().splitlines()[-1][:200])
        (folder / "ready").touch()
    return str(python)


def run(engine: Engine, python: str, step: str, work: Path, files: list[str]) -> dict:
    command = [python, str(PEERS / engine.script), step, str(work), *files]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError((process.stderr.strip().splitlines() or ["no message"])[-1][:200])
    return json.loads(process.stdout.strip().splitlines()[-1])


def data(root: Path, rows: int) -> list[str]:
    folder = root / f"criteo-{rows}"
    if not (folder / "ready").exists():
        print(f"making {rows:,} rows")
        criteo.write(folder, rows)
        (folder / "ready").touch()
    return sorted(map(str, folder.rglob("*.parquet")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1, help="millions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rows", type=float, help="millions, for the engine of rows")
    parser.add_argument("--only", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--folder", type=Path, help="where rows are kept between runs")
    options = parser.parse_args()
    rows = int(options.rows * MILLION)
    if options.slow_rows:
        slow = replace(ENGINES["row at a time"], rows=int(options.slow_rows * MILLION))
        ENGINES["row at a time"] = slow
    with tempfile.TemporaryDirectory() as scratch:
        measure(options.folder or Path(scratch), rows, options.rounds, options.only)


def measure(root: Path, rows: int, rounds: int, names: list[str]) -> None:
    pythons: dict[str, str] = {}
    for name in names:
        try:
            pythons[name] = python_of(ENGINES[name])
        except RuntimeError as error:
            print(f"{name} is left out: it cannot be installed here ({error})")
    inputs = {name: data(root, ENGINES[name].rows or rows) for name in pythons}
    results: dict[tuple[str, str], list[dict]] = {}
    for _ in range(rounds):
        for step in STEPS:
            for name, python in list(pythons.items()):
                work = root / "work" / str(rows) / ENGINES[name].script.removesuffix(".py")
                try:
                    result = run(ENGINES[name], python, step, work, inputs[name])
                except RuntimeError as error:
                    print(f"{name} is left out: {step} failed ({error})")
                    del pythons[name]
                    continue
                results.setdefault((name, step), []).append(result)
                print(
                    f"  {name:22}{step:10}{result['seconds']:8.2f} s{result['cpu']:8.2f} CPU s",
                    flush=True,
                )
    report(pythons, results, rows)


def report(pythons: dict[str, str], found: dict[tuple[str, str], list[dict]], rows: int) -> None:
    """Print rows per second of wall-clock time and of CPU time, which other load affects less."""
    for clock, title in (("seconds", "wall clock"), ("cpu", "CPU time")):
        print(f"\n{rows:,} rows, {title}, best of each; `ours` is how many times as fast ours is")
        print(
            f"{'':22}" + "".join(f"{step + ' rows/s':>18}{'ours':>8}" for step in (*STEPS, "both"))
        )
        speed: dict[str, list[float]] = {}
        for name in pythons:
            row_count = ENGINES[name].rows or rows
            best = [min(result[clock] for result in found[name, step]) for step in STEPS]
            speed[name] = [row_count / seconds for seconds in (*best, sum(best))]
        our_speeds = speed.get("ours", [float("nan")] * 3)
        for name, speeds in speed.items():
            pairs = zip(speeds, our_speeds, strict=True)
            print(
                f"{name:22}"
                + "".join(
                    f"{peer_speed:18,.0f}{own / peer_speed:7.2f}x" for peer_speed, own in pairs
                )
            )
    print("\nWhat they found (peak MiB; entries of vocabularies, rows written, two centers):")
    for name in pythons:
        figures = found[name, STEPS[0]][0]["check"] | found[name, STEPS[1]][0]["check"]
        peak = max(result["peak_mib"] for step in STEPS for result in found[name, step])
        check_texts = [f"{figures[key]:.6g}" for key in CHECKED if key in figures]
        print(f"{name:22}{peak:10,.0f}  {'  '.join(check_texts)}")


if __name__ == "__main__":
    main()
