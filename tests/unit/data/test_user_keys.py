"""User ids become keyed hashes: no output holds a raw id or the secret."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.anonymous import UserColumn
from nightbid.config.load import parse_pipeline
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.data.user_keys import UserKeyHasher
from nightbid.errors import ConfigError
from nightbid.features.fitted import FittedFeatures
from nightbid.forget import find_users
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

SECRET = "a-secret-of-more-than-16-bytes"
NIGHT = dt.date(2026, 1, 4)
PIPELINE = """
pipeline: keyed
source: {{kind: parquet, folder: {folder}, user_key: {{env: TEST_USER_KEY, columns: [friend]}}}}
window: {{train_days: 2}}
features:
  user_id: {{min_count: 1}}
  friend: {{min_count: 1}}
  ad_id: {{min_count: 2}}
  user_ctr: {{transform: target_rate, columns: [user_id]}}
  seen: {{transform: recent, column: ad_id, by: [user_id], vocabulary: ad_id, length: 4}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write four days whose users have names; one row has no label."""
    simulator = SimulatorLogs(SimulatorSource(rows_per_day=600, users=80, ads=30))
    for back in range(4):
        day = NIGHT - dt.timedelta(days=back)
        table = pa.Table.from_batches(simulator.batches(day))
        names = pa.array([f"person-{user}" for user in table["user_id"].to_pylist()])
        table = table.set_column(table.column_names.index("user_id"), "user_id", names)
        labels = pa.array([None, *table["click"].to_pylist()[1:]])
        table = table.set_column(table.column_names.index("click"), "click", labels)
        table = table.append_column("friend", names.take(pa.array(range(len(names) - 1, -1, -1))))
        target = tmp_path / "logs" / f"dt={day}"
        target.mkdir(parents=True)
        pq.write_table(table, target / "part.parquet")
    return tmp_path / "logs"


def texts(path: Path) -> str:
    """Return a file's content, decompressed where needed."""
    if path.suffix == ".parquet":
        return str(pq.read_table(path, partitioning=None).to_pydict())
    return path.read_bytes().decode("utf-8", "replace")


@pytest.mark.slow
def test_no_output_contains_a_raw_user_id_or_the_secret(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TEST_USER_KEY", SECRET)
    spec = parse_pipeline(PIPELINE.format(folder=folder), "keyed.yaml")
    workspace = Workspace(str(tmp_path / "workspace"))
    run = RunRecord.start(workspace, spec, NIGHT)
    for name in ("sample", "featurize"):
        done = run_stage(stage_named(name), spec, run, cache_folder=tmp_path / "cache")
    files = [path for path in (tmp_path / "workspace").rglob("*") if path.is_file()]
    assert any("quarantine" in str(path) for path in files)
    for path in files:
        content = texts(path)
        assert "person-" not in content, path
        assert SECRET not in content, path
    # A caller of the scorer computes the same ids with the secret.
    key = hashlib.blake2b(SECRET.encode(), digest_size=32).digest()
    raw = pq.read_table(folder / f"dt={NIGHT - dt.timedelta(days=3)}", partitioning=None)
    ids = {
        hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest()
        for text in raw["user_id"].to_pylist()[1:]
    }
    fitted = FittedFeatures.load(Path(str(workspace.at(done.uri))) / "fitted")
    for name in ("user_id", "friend"):
        assert len(ids & set(fitted.learned[name].tokens.to_pylist())) > 20, name
    keys = UserKeyHasher.of(spec)
    assert keys is not None
    user = raw["user_id"].to_pylist()[1]
    assert not find_users(workspace, [user]).outputs
    assert sum(find_users(workspace, [user], keys.many([user])).rows.values()) > 0

    # The same logs with another secret are different rows.
    before = run.stage("sample")
    monkeypatch.setenv("TEST_USER_KEY", SECRET.swapcase())
    again = run_stage(stage_named("sample"), spec, run, cache_folder=tmp_path / "cache")
    assert before is not None
    assert again.uri != before.uri
    monkeypatch.setenv("TEST_USER_KEY", "short")
    with pytest.raises(ConfigError, match="the secret has 5 bytes → use at least 16"):
        run_stage(stage_named("sample"), spec, run, cache_folder=tmp_path / "cache")


def test_ids_of_any_type_are_hashed_by_their_text() -> None:
    keys = UserKeyHasher(("user", "more"), SECRET.encode())
    expected = [keys.one("7"), None, keys.one("12"), keys.one("7")]
    for column in (
        pa.array([7, None, 12, 7]),
        pa.array(["7", None, "12", "7"]),
        pa.array(["7", None, "12", "7"]).dictionary_encode(),
        pa.array([b"7", None, b"12", b"7"]),
        pa.chunked_array([["7", None], ["12", "7"]], pa.large_string()),
    ):
        table = keys.keyed(pa.table({"user": column, "other": [1, 2, 3, 4]}))
        assert table["user"].to_pylist() == expected
        assert table.column_names == ["user", "other"]


def test_values_that_mean_no_user_are_not_hashed() -> None:
    keys = UserKeyHasher(("user", "more"), SECRET.encode(), UserColumn("user", ("", "-", "0")))
    for values in (["7", None, "-", ""], [7, None, 0, 12]):
        table = keys.keyed(pa.table({"user": values, "more": values}))
        kept = [None if value is None else str(value) for value in values]
        hashed = [None if value is None else keys.one(value) for value in kept]
        users = [text if text in (None, "", "-", "0") else keys.one(text) for text in kept]
        assert (table["user"].to_pylist(), table["more"].to_pylist()) == (users, hashed)


@pytest.mark.parametrize("block", ["{}", "{env: A, file: b}", "{env: A, colums: [x]}"])
def test_user_key_settings_without_exactly_one_secret_are_rejected(block) -> None:
    text = PIPELINE.format(folder="/logs").replace("{env: TEST_USER_KEY, columns: [friend]}", block)
    with pytest.raises(ConfigError, match=r"either env or file|did you mean 'columns'"):
        parse_pipeline(text, "keyed.yaml")
