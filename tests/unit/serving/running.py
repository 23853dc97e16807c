"""Runs `nightbid serve` as its callers meet it: as a process behind a socket."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
from nightbid.night.champion import ChampionPointer
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS, Command

from .small_night import PIPELINE, SmallNight


class Scorer:
    """A running `nightbid serve` and the champion that it follows."""

    def __init__(self, night: SmallNight, process: Command, log: Path, http: httpx.Client) -> None:
        self.night = night
        self.process = process
        self.log_file = log
        self.http = http
        self.pointer = ChampionPointer(Workspace(night.root / "ws"), "small")

    def promote(self, night: SmallNight, name: str) -> int:
        """Promote a night's bundle, wait until it serves, and return its number."""
        export = night.stage("export")
        champion = self.pointer.promote(
            run_id=name,
            night=night.run.date,
            bundle_uri=export.uri,
            bundle_digest=export.manifest.digest,
            reason="tests",
        )
        self.until(champion.number)
        return champion.number

    def score(self, table: pa.Table, **more: object) -> httpx.Response:
        body = json.dumps({"rows": table.to_pylist(), **more}, default=lambda t: t.isoformat())
        return self.http.post("/score", content=body)

    def log(self) -> str:
        """Return what the process has written to standard error so far."""
        return self.log_file.read_text()

    def until(self, number: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            champion = self.http.get("/health").json()["champion"]
            if champion and champion["number"] == number:
                return
            time.sleep(0.02)
        raise AssertionError(self.http.get("/health").text)


@contextlib.contextmanager
def serving(
    night: SmallNight,
    folder: Path,
    *options: str,
    fresh: bool = True,
    **client: Any,
) -> Iterator[Scorer]:
    """Start `nightbid serve` in a workspace; with `fresh`, its pipeline has no champion."""
    (folder / "small.yaml").write_text(PIPELINE)
    if fresh:
        shutil.rmtree(night.root / "ws" / "champion", ignore_errors=True)
    environment = {
        **os.environ,
        "NIGHTBID_WORKSPACE": str(night.root / "ws"),
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
        http = httpx.Client(base_url=url[0], timeout=30, trust_env=False, **client)
        with http:
            yield Scorer(night, process, log, http)
    finally:
        process.kill()
        process.wait()
