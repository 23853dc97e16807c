"""Tests what commands print for programs and pipes, and how they exit."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from nightbid.cli.app import app
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import EXIT_CODES, NightbidError
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.pauses import PromotionPauses
from nightbid.night.record import RunRecord
from nightbid.storage.digests import SETTLED_SECONDS
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS
from typer.testing import CliRunner

NIGHT = dt.date(2026, 1, 8)
LONG_SUMMARY = (
    "rows_vs_usual is 0.4, expected 0.5 to 2, and this text is longer than eighty columns"
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Create a pipeline `p` with one stopped run and a champion."""
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    (pipelines / "p.yaml").write_text(
        "pipeline: p\ndescription: 'of [/home] top'\nfeatures: {a: vocabulary}\n"
    )
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(pipelines))
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NIGHTBID_TRACKING", "")
    workspace = Workspace(str(tmp_path / "workspace"))
    spec = PipelineSpec.model_validate({"pipeline": "p", "features": {"a": {"column": "a"}}})
    run = RunRecord.start(workspace, spec, NIGHT)
    for stage, state in (("sample", "done"), ("evaluate", "stopped")):
        started = dt.datetime(2026, 1, 9, tzinfo=dt.UTC)
        run.record(
            StageRecord(stage=stage, state=state, started=started, seconds=9, summary=LONG_SUMMARY)
        )
    pointer = ChampionPointer(workspace, "p")
    pointer.promote(
        run_id="p-2026-01-08", night=NIGHT, bundle_uri="stages/x", bundle_digest="b" * 64,
        reason="[/home] better",
    )  # fmt: skip
    return workspace


def stdout_of(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_list_commands_print_json(installed: Workspace) -> None:
    (run,) = json.loads(stdout_of("runs", "p", "--json"))
    assert (run["run_id"], run["state"]) == ("p-2026-01-08", "stopped")
    document = json.loads(stdout_of("champion", "p", "--json"))
    assert [entry["number"] for entry in document["history"]] == [1]
    assert document["paused"] is None
    assert json.loads(stdout_of("pipelines", "--json"))["pipelines"][0]["pipeline"] == "p"
    days = json.loads(stdout_of("window", "p", "--date", "2026-01-08", "--json"))
    assert days["evaluate"] == ["2026-01-08"]
    assert json.loads(stdout_of("features", "p", "--json"))["features"][0]["name"] == "a"


def test_the_run_list_shows_whether_a_promoted_run_still_serves(installed: Workspace) -> None:
    pointer = ChampionPointer(installed, "p")
    assert "; serves" in stdout_of("runs", "p")
    pointer.promote(
        run_id="later", night=NIGHT + dt.timedelta(days=1), bundle_uri="stages/y",
        bundle_digest="c" * 64, reason="better",
    )  # fmt: skip
    assert not {"serves", "withdrawn"} & set(stdout_of("runs", "p").split())
    pointer.rollback("CTR fell")
    assert "; serves" in stdout_of("runs", "p")
    pointer.retire(1, "a leak", by="me")
    assert "; withdrawn since" in stdout_of("runs", "p")


def test_gates_show_names_gates_whose_output_is_gone(installed: Workspace) -> None:
    run = RunRecord.load(installed, "p", "p-2026-01-08")
    assert stdout_of("gates", "show", "p", run.run_id) == "no gate of p-2026-01-08 has judged yet\n"
    run.record(
        StageRecord(
            stage="gate_raw", state="stopped", started=dt.datetime(2026, 1, 9, tzinfo=dt.UTC),
            seconds=1, verdict="stop", uri="stages/p/gate_raw/1",
        )
    )  # fmt: skip
    assert stdout_of("gates", "show", "p", run.run_id) == (
        "raw stop: its output was deleted; a rerun of the night makes it again\n"
    )


PROGRAM = """
import json, sys
from nightbid.cli.app import main
commands = json.loads(sys.argv[1])
for command in commands:
    sys.argv = ["nightbid", *command]
    code = None
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    print("$", *command, "→", code, file=sys.stderr, flush=True)
"""
"""Runs several commands in one process, as to start one takes most of the time."""


def ran(path: Path, *commands: tuple[str, ...], columns: str = "") -> tuple[list[int], str, str]:
    """Run commands in one process, in a terminal of this width, or into a pipe.

    Returns:
        Their exit codes, their output, and their errors.
    """
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    if columns:
        environment["COLUMNS"] = columns
    program = path / "commands.py"
    program.write_text(PROGRAM)
    done = COMMANDS.run(json.dumps(commands), module=str(program), env=environment)
    codes = re.findall(r"^\$ .* → (\d+|None)$", done.stderr, re.MULTILINE)
    assert (done.returncode, len(codes)) == (0, len(commands)), done.stderr
    return [int(code) if code != "None" else 0 for code in codes], done.stdout, done.stderr


def shown(path: Path, columns: str, *commands: tuple[str, ...]) -> str:
    """Return what commands print that succeed."""
    codes, text, errors = ran(path, *commands, columns=columns)
    assert not any(codes), errors
    return text


def test_tables_written_to_a_pipe_are_not_truncated(installed: Workspace, tmp_path: Path) -> None:
    # Brackets in values are text, not markup.
    for arguments, text in ((("runs", "p"), LONG_SUMMARY), (("champion", "p"), "[/home] better")):
        assert text in shown(tmp_path, "", arguments)


BRACKETS = "[/home] top"


@pytest.fixture
def bracketed(installed: Workspace, tmp_path: Path) -> list[tuple[str, ...]]:
    """Put brackets wherever users or logs may put them; return the commands that show them."""
    logs = tmp_path / "logs"
    for day in (6, 7, 8):
        folder = logs / f"dt=2026-01-0{day}"
        folder.mkdir(parents=True)
        rows = range(60)
        midnight = dt.datetime(2026, 1, day)
        columns = {
            "impression_id": [day * 100 + at for at in rows],
            "time": [midnight + dt.timedelta(minutes=20 * at) for at in rows],
            "user_id": [f"u{at % 7}" for at in rows],
            "a": [f"{BRACKETS} {at % 3}" for at in rows],
            BRACKETS: [BRACKETS] * 60,
            "click": [int(at % 5 == 0) for at in rows],
        }
        pq.write_table(pa.table(columns), folder / "part.parquet")
    suites = tmp_path / "pipelines" / "suites"
    suites.mkdir()
    band = {"gate": "raw", "statistic": "psi", "columns": [BRACKETS], "warn": [None, 0.1],
            "why": BRACKETS}  # fmt: skip
    (suites / "p.yaml").write_text(json.dumps({"bands": [band]}))
    (tmp_path / "pipelines" / "logs.yaml").write_text(
        json.dumps(
            {"pipeline": "logs", "source": {"kind": "parquet", "folder": str(logs)},
             "window": {"train_days": 1}, "features": {"a": "vocabulary"}}
        )
    )  # fmt: skip
    PromotionPauses(installed, "p").start(BRACKETS, BRACKETS)
    return [
        ("pipelines",), ("runs", "p"), ("champion", "p"), ("audit", "p"), ("features", "p"),
        ("gates", "override", "p", "raw/psi:*", "--name", BRACKETS, "--reason", BRACKETS,
         "--until", "2099-01-01"),
        ("gates", "show", "p"), ("data", "days", "logs"),
        ("data", "show", "logs", "--date", "2026-01-08"),
        ("data", "frozen"), ("data", "prune"), ("data", "forget", BRACKETS),
    ]  # fmt: skip


@pytest.mark.slow
def test_brackets_are_printed_literally_and_80_columns_truncate_nothing(
    bracketed, tmp_path
) -> None:
    narrow = shown(tmp_path, "80", *bracketed)
    tables = [line for line in narrow.splitlines() if line[:1] in "┃│┏"]
    assert tables
    assert max(map(len, tables)) <= 80
    assert "…" not in narrow.replace("--date …", "").replace("--name …", "")
    assert "\\[" not in narrow
    # The line shows all of a champion, each part unbroken.
    for whole in ("p-2026-01-08", "b" * 12, BRACKETS):
        assert whole in narrow
    wide = shown(tmp_path, "", *bracketed)
    assert wide.count(BRACKETS) >= 10
    assert "\\[" not in wide


@pytest.mark.slow
def test_help_documents_the_exit_code_of_every_error(installed: Workspace) -> None:
    assert COMMANDS.run("runs", "nope").returncode == 2
    assert stdout_of("--version").startswith("nightbid ")
    assert all(str(code) in stdout_of("--help") for code in EXIT_CODES)
    # Other modules define their own kinds, which no command exits with.
    kinds = [
        kind for kind in NightbidError.__subclasses__() if kind.__module__ == "nightbid.errors"
    ]
    assert all(kind.exit_code in EXIT_CODES for kind in kinds if kind.__name__ != "TrialPruned")


NIGHT_OF_LOGS = ("run", "logs", "--date", "2026-01-08", "--until", "gate_raw", "--run-id")
ENDS = (
    (0, "window", "logs", "--date", "2026-01-08"),
    (2, "run", "logs", "--date", "8 January"),
    (2, "run", "logs", "--date", "2026-01-08", "--set", "train.lr=1"),
    (2, "gates", "override", "p", "raw/nope:a", "--name", "ann", "--reason", "an app was launched",
     "--until", "2099-01-01"),
    (3, "data", "show", "logs", "--date", "2026-01-01"),
    # The first stage's cost is over the limit, so the second stage does not start.
    (5, *NIGHT_OF_LOGS, "dear", "--set", "budget.run_usd=1e-12"),
    (4, *NIGHT_OF_LOGS, "stops", "--set", "gates.raw.rows.stop=[1000000,null]"),
    (6, "watch", "--once"),
)  # fmt: skip


@pytest.mark.slow
def test_commands_exit_with_the_documented_codes(
    bracketed: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipelines" / "broken.yaml").write_text("pipeline: broken\nshcedule: x\n")
    codes, _, errors = ran(tmp_path, *(case[1:] for case in ENDS))
    assert codes == [case[0] for case in ENDS], errors
    assert "Traceback" not in errors
    monkeypatch.setenv("NIGHTBID_LEDGER", "postgresql://nobody:x@127.0.0.1:9/none")
    assert COMMANDS.run("cost", "show", "p").returncode == 7
    monkeypatch.setenv("NIGHTBID_LEDGER", "")
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "pipelines" / "broken.yaml"))  # no folder
    # The digests of new files are not cached, because the files may still change.
    written = max(path.stat().st_ctime for path in (tmp_path / "logs").rglob("*.parquet"))
    time.sleep(max(0.0, written + SETTLED_SECONDS + 0.1 - time.time()))
    failed = COMMANDS.run(*NIGHT_OF_LOGS, "unexpected", "--set", "seed=7")
    assert failed.returncode == 6
    assert "Traceback" in failed.stderr
    assert "NotADirectoryError" in failed.stderr.splitlines()[-1]
    assert failed.stderr.splitlines()[-1].endswith("a rerun is safe")


ASKS = ("compare", "document", "estimate", "forecast", "list", "look", "price", "replay", "show")
"""First words of the help texts of commands that answer a question."""


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name.strip(), command
        return
    for key, child in command.commands.items():
        yield from leaves(child, f"{name} {key}")


def test_every_list_or_show_command_has_a_json_option() -> None:
    commands = dict(leaves(typer.main.get_command(app)))
    asks = {
        name: command
        for name, command in commands.items()
        if command.help.split()[0].lower() in ASKS
    }
    assert {"runs", "champion", "compare", "audit", "features", "window"} <= set(asks)
    lacking = [
        name
        for name, command in asks.items()
        if not any("--json" in parameter.opts for parameter in command.params)
    ]
    assert not lacking, f"add `as_json: AsJson = False` to {lacking}"
