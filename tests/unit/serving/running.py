"""Runs `nightbid serve` as its callers meet it: as a process behind a socket."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
from emulator.installation import until
from nightbid.night.champion import ChampionPointer
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS, Command

from .small_night import PIPELINE, SmallNight


def children_with(argument: str, pid: int) -> list[psutil.Process]:
    """Return the living processes below a process whose command has an argument."""
    living = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, or waits for its parent
            if argument in " ".join(child.cmdline()):
                living.append(child)
    return living


class Scorer:
    """A running `nightbid serve` and the champion that it follows."""

    def __init__(self, folder: Path, process: Command, log: Path, http: httpx.Client) -> None:
        self.process = process
        self.log_file = log
        self.http = http
        self.workspace = folder / "ws"
        self.pointer = ChampionPointer(Workspace(self.workspace), "small")

    def promote(self, night: SmallNight, name: str) -> int:
        """Make a night's bundle the champion of this name, unless it is; wait until it serves."""
        champion = self.pointer.current()
        if champion is None or champion.run_id != name:
            digest = night.stage("export").manifest.digest
            shutil.copytree(night.folder("export"), self.workspace / digest, dirs_exist_ok=True)
            champion = self.pointer.promote(
                run_id=name, night=night.run.date, bundle_uri=digest, bundle_digest=digest,
                reason="tests",
            )  # fmt: skip
        self.until(champion.number)
        return champion.number

    def metric(self, pattern: str) -> float:
        """Return a metric's sum over the lines that match; 0 before its first event."""
        lines = re.findall(rf"^{pattern} (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return sum(map(float, lines))

    def score(self, table: pa.Table, **more: object) -> httpx.Response:
        body = json.dumps({"rows": table.to_pylist(), **more}, default=lambda t: t.isoformat())
        return self.http.post("/score", content=body)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that score."""
        return children_with("spawn_main", self.process.pid)

    def log(self) -> str:
        """Return what the process has written to standard error so far."""
        return self.log_file.read_text()

    def until(self, number: int) -> None:
        """Wait until a champion serves in every process."""

        def serves() -> bool:
            champion = self.http.get("/health").json()["champion"]
            return bool(champion) and champion["number"] == number

        until(serves, what=f"champion #{number}")


@contextlib.contextmanager
def serving(folder: Path, *options: str, **client: Any) -> Iterator[Scorer]:
    """Start `nightbid serve` with the workspace `ws` of a folder."""
    (folder / "small.yaml").write_text(PIPELINE)
    environment = {
        **os.environ,
        "NIGHTBID_WORKSPACE": str(folder / "ws"),
        "NIGHTBID_PIPELINES": str(folder),
        "PYTHONUNBUFFERED": "1",
    }
    command = ["serve", "small", "--port", "0", "--poll", "0.1", *options]
    log = folder / "scorer.log"
    with log.open("w") as errors:
        process = COMMANDS.start(*command, env=environment, stderr=errors)
    try:
        assert process.stdout is not None
        url = re.search(r"https?://\S+:\d+", process.stdout.readline())
        assert url, log.read_text()
        http = httpx.Client(base_url=url[0], timeout=120, trust_env=False, **client)
        with http:
            yield Scorer(folder, process, log, http)
    finally:
        process.kill()
        process.wait()
