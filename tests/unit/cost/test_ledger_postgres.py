"""PostgreSQL stores the same ledger as the files: no duplicates, and no entry ever changes."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from emulator.proxy import Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.config.costs import Budget
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.cost import ledger_postgres
from nightbid.cost.budget import limits_of
from nightbid.cost.entries import LedgerEntry, fold
from nightbid.cost.focus import export_focus
from nightbid.cost.ledger import Ledger, record_stage_usage, total
from nightbid.cost.ledger_files import FileLedger
from nightbid.cost.ledger_postgres import PostgresLedger
from nightbid.errors import ConfigError, WorkspaceError
from nightbid.night.manifest import Usage
from nightbid.night.record import RunRecord
from nightbid.report.summaries import Summaries
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS
from pydantic import SecretStr
from typer.testing import CliRunner

START = datetime(2026, 11, 23, 2, tzinfo=UTC)
RECORD = """
import sys
from datetime import UTC, datetime
from nightbid.cost.ledger import record_stage_usage
from nightbid.night.manifest import Usage
from nightbid.storage.workspace import Workspace
for number in range(40):
    for seconds in (60, 3600, 1800):
        record_stage_usage(Workspace(sys.argv[1]), pipeline="ctr", run_id=sys.argv[2],
            stage="train", attempt=number, usage=Usage(cpu_seconds=seconds), state="done",
            started=datetime(2026, 11, 23, tzinfo=UTC))
"""
observation = st.builds(
    LedgerEntry,
    pipeline=st.just(""),
    run_id=st.sampled_from(["r1", "r2"]),
    stage=st.sampled_from(["train", "featurize"]),
    attempt=st.integers(1, 2),
    service=st.sampled_from(["machine", "dataflow_batch"]),
    resource=st.just("vcpu_hour"),
    job=st.sampled_from(["", "j1"]),
    quantity=st.decimals(0, 10**6, places=9),
    cost_here=st.just(Decimal(0)),
    cost_cloud=st.decimals(0, 10**6, places=12),
    currency=st.just("USD"),
    started=st.just(START),
    state=st.sampled_from(["running", "killed", "done"]),
)


@pytest.fixture
def on_postgres(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Configure the installation with a ledger in a new database."""
    monkeypatch.setenv("NIGHTBID_LEDGER", database)
    return database


def spend(workspace: Workspace, stage: str, seconds: float, state: str = "done") -> None:
    record_stage_usage(
        workspace, pipeline="ctr", run_id="ctr-1", stage=stage, attempt=1, started=START,
        usage=Usage(cpu_seconds=seconds, gb_seconds=seconds / 3), state=state,
    )  # fmt: skip


def comparable(entries: list[LedgerEntry]) -> list[tuple[Any, ...]]:
    """Return keys and quantities; of two equally large observations, either may be kept."""
    return [(entry.key, entry.quantity) for entry in entries]


@settings(max_examples=12)
@given(seen=st.lists(observation, max_size=14), compact=st.sets(st.integers(0, 13)))
def test_postgres_ledger_equals_the_file_ledger_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, database: str, seen: list[LedgerEntry],
    compact: set[int],
) -> None:  # fmt: skip
    pipeline = f"p-{uuid.uuid4().hex}"
    entries = [row.model_copy(update={"pipeline": pipeline}) for row in seen]
    files = FileLedger(Workspace(str(tmp_path_factory.mktemp("ledger"))))
    table = PostgresLedger(SecretStr(database))
    for index, entry in enumerate([*entries, *reversed(entries)]):
        files.append([entry])
        table.append([entry, entry])
        if index in compact:
            table.compact()
    folded = fold(table.read(pipeline))
    assert comparable(folded) == comparable(fold(files.read(pipeline)))
    states = {row.key: row.state for row in fold(files.read(pipeline))}
    assert {row.key: row.state for row in folded} == states


def test_postgres_and_file_ledger_give_equal_costs_limits_and_exports(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(stage_usd={"train": Decimal(9)}, day_usd=Decimal(9), month_usd=Decimal(9))
    results = []
    for address in ("", database):
        monkeypatch.setenv("NIGHTBID_LEDGER", address)
        workspace = Workspace(str(tmp_path / "w"))
        for seconds, state in ((100.25, "running"), (3601.5, "running"), (3600, "done")):
            spend(workspace, "train", seconds, state)
            spend(workspace, "sample", seconds / 7, state)
        limits = limits_of(
            budget, workspace, pipeline="ctr", run_id="ctr-2", stage="train", attempt=1, at=START
        )
        out = tmp_path / "costs.csv"
        export_focus(Ledger(workspace).entries(), out)
        results.append((limits, Ledger(workspace).entries(stage="train"), out.read_bytes()))
    assert results[0] == results[1]
    assert results[0][1][0].state == "done"


def test_the_table_rejects_updates_and_deletes_that_lose_costs(
    tmp_path: Path, on_postgres: str
) -> None:
    workspace = Workspace(str(tmp_path))
    for seconds in (1, 2, 3):
        spend(workspace, "train", seconds)
    before = Ledger(workspace).entries()
    with psycopg.connect(on_postgres, autocommit=True) as connection:
        for statement in (
            "UPDATE nightbid.ledger SET cost_cloud = 0",
            "DELETE FROM nightbid.ledger",
            "TRUNCATE nightbid.ledger",
        ):
            with pytest.raises(psycopg.errors.RaiseException, match="only grows"):
                connection.execute(statement)
    assert Ledger(workspace).compact() == 4, "two observations of two resources"
    assert Ledger(workspace).compact() == 0
    assert Ledger(workspace).entries() == before


def test_concurrent_writers_to_an_empty_database_lose_no_entry(
    tmp_path: Path, on_postgres: str
) -> None:
    program = tmp_path / "record.py"
    program.write_text(RECORD)
    writers = [
        COMMANDS.start(str(tmp_path), f"run-{number}", module=str(program)) for number in range(3)
    ]
    ledger = Ledger(Workspace(str(tmp_path)))
    while any(writer.poll() is None for writer in writers):
        ledger.compact()
        time.sleep(0.05)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    ledger.compact()
    assert total(ledger.entries()).amount == Decimal("0.056") * 120
    assert not (tmp_path / "ledger").exists()


def test_a_forked_process_uses_its_own_connection(tmp_path: Path, on_postgres: str) -> None:
    workspace = Workspace(str(tmp_path))
    spend(workspace, "sample", 3600)
    child = os.fork()
    if child == 0:
        spend(workspace, "train", 3600)
        os._exit(0)
    spend(workspace, "evaluate", 3600)
    assert os.waitpid(child, 0)[1] == 0
    assert {entry.stage for entry in Ledger(workspace).entries()} == {"sample", "train", "evaluate"}


def test_a_stopped_server_is_one_error_line_and_writes_resume_later(
    tmp_path: Path, postgres: Any, on_postgres: str, password: str
) -> None:
    workspace = Workspace(str(tmp_path))
    spend(workspace, "train", 3600)
    postgres.stop()
    try:
        with pytest.raises(WorkspaceError, match=r"127\.0\.0\.1.*cost ledger in PostgreSQL") as e:
            spend(workspace, "train", 7200)
        assert password not in str(e.value)
    finally:
        postgres.start()
    spend(workspace, "train", 7200)
    cost = total(Ledger(workspace).entries(stage="train")).amount
    assert cost > Decimal("0.112")


def test_writes_wait_for_a_slow_server_and_time_out_on_a_hanging_one(
    tmp_path: Path, postgres: Any, on_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(postgres.port)
    monkeypatch.setenv("NIGHTBID_LEDGER", on_postgres.replace(f":{postgres.port}", f":{wire.port}"))
    workspace = Workspace(str(tmp_path))
    try:
        wire.slow(0.05)
        spend(workspace, "train", 3600)
        assert len(Ledger(workspace).entries(stage="train")) == 2
        wire.hang()
        with monkeypatch.context() as impatient:
            impatient.setattr(ledger_postgres, "ANSWER_SECONDS", 1.0)
            with pytest.raises(
                WorkspaceError, match=r"has not answered within 1 s.*nothing was counted"
            ):
                spend(workspace, "train", 7200)
    finally:
        wire.up()
    spend(workspace, "train", 7200)
    cost = total(Ledger(workspace).entries(stage="train")).amount
    assert cost > Decimal("0.112")
    wire.down()


def test_the_password_never_appears_in_settings_or_errors(
    tmp_path: Path, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "not-the-password"
    monkeypatch.setenv("NIGHTBID_LEDGER", postgres.address("postgres", secret))
    assert secret not in f"{Settings()!r} {Settings().model_dump_json()}"
    with pytest.raises(WorkspaceError, match="authentication failed") as refused:
        spend(Workspace(str(tmp_path)), "train", 1)
    assert secret not in str(refused.value)
    for wrong in (f"mysql://u:{secret}@h/d", f"postgresql://u:{secret}/x@h:y/d", secret):
        monkeypatch.setenv("NIGHTBID_LEDGER", wrong)
        with pytest.raises(ConfigError, match=r"ledger: not an address like") as faulty:
            Settings()
        assert secret not in str(faulty.value)


def test_importing_file_costs_twice_counts_them_once(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightbid.cli import cost as cli

    monkeypatch.delenv("NIGHTBID_LEDGER", raising=False)
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "w"))
    monkeypatch.setenv("COLUMNS", "200")
    workspace = Workspace(str(tmp_path / "w"))
    spec = PipelineSpec.model_construct(pipeline="ctr", features={})
    RunRecord.start(workspace, spec, date(2026, 1, 8), run_id="ctr-1")
    spend(workspace, "train", 3600)
    before = Ledger(workspace).entries()
    runner = CliRunner()
    assert isinstance(runner.invoke(cli.app, ["import"]).exception, ConfigError)
    monkeypatch.setenv("NIGHTBID_LEDGER", database)
    assert Ledger(workspace).entries() == []
    for _ in range(2):
        done = runner.invoke(cli.app, ["import"])
        assert "2 observations" in done.output, done.output
    assert Ledger(workspace).entries() == before
    (first,) = Summaries(workspace, tmp_path).of("ctr")
    spend(workspace, "evaluate", 3600)
    (second,) = Summaries(workspace, tmp_path).of("ctr")
    assert second.cost.amount == total(Ledger(workspace).entries()).amount > first.cost.amount
