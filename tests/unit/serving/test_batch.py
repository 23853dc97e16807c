"""`nightbid score` reads Parquet and writes the bundle's exact scores, or nothing at all."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.errors import ConfigError, CorruptDataError, DataError, MissingDataError
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import runs_of
from nightbid.serving.batch import score_files
from nightbid.serving.bundle import Bundle
from nightbid.serving.score_stage import check, score_day


def _days(night, folder: Path) -> Path:
    raw = night.raw()
    for at, day in enumerate(("dt=2026-01-08", "dt=2026-01-09")):
        (folder / day).mkdir(parents=True)
        pq.write_table(raw.slice(at * 500, 500), folder / day / "part.parquet")
    return folder


def test_score_files_writes_the_bundles_score_for_every_row(night, tmp_path):
    rows, bundle = _days(night, tmp_path / "rows"), night.folder("export")
    summary = score_files(bundle, rows, tmp_path / "to", keep=["ad_id"])
    assert summary["rows"] == 1000
    assert json.loads((tmp_path / "to" / "scores.json").read_text()) == summary
    for at, day in enumerate(("dt=2026-01-08", "dt=2026-01-09")):
        written = pq.read_table(tmp_path / "to" / day / "part.parquet", partitioning=None)
        raw = night.raw().slice(at * 500, 500)
        assert written.column_names == ["ad_id", "probability"]
        assert written["ad_id"].to_pylist() == raw["ad_id"].to_pylist()
        assert written["probability"].to_pylist() == Bundle.load(bundle).score(raw).tolist()
    # Neighbors do not matter: a request of 100 rows gets the same scores.
    alone = Bundle.load(bundle).score(night.raw().slice(0, 100))
    first = pq.read_table(tmp_path / "to" / "dt=2026-01-08" / "part.parquet", partitioning=None)
    np.testing.assert_allclose(first["probability"][:100].to_numpy(), alone, atol=1e-7)


def test_dictionary_encoded_strings_get_the_same_scores(night, tmp_path):
    raw = night.raw().slice(0, 300)
    place = raw.column_names.index("ad_id")
    pq.write_table(raw, tmp_path / "plain.parquet")
    pq.write_table(
        raw.set_column(place, "ad_id", raw["ad_id"].dictionary_encode()), tmp_path / "coded.parquet"
    )
    scores = []
    for name in ("plain", "coded"):
        score_files(night.folder("export"), tmp_path / f"{name}.parquet", tmp_path / name)
        scores.append(pq.read_table(tmp_path / name / f"{name}.parquet")["probability"])
    assert scores[0].equals(scores[1])


def test_unscorable_files_are_reported_in_one_line_and_leave_no_output(night, tmp_path):
    raw, bundle = night.raw().slice(0, 10), night.folder("export")
    place = raw.column_names.index("ad_id")
    pq.write_table(raw.drop_columns("ad_id"), tmp_path / "lacking.parquet")
    numbers = pa.array(range(10))
    pq.write_table(raw.set_column(place, "ad_id", numbers), tmp_path / "other.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no Parquet")
    pq.write_table(raw, tmp_path / "cut.parquet", compression="none")
    whole = (tmp_path / "cut.parquet").read_bytes()
    # The footer is intact, but pages are overwritten.
    (tmp_path / "cut.parquet").write_bytes(whole[:4] + b"\xff" * 3000 + whole[3004:])
    for name, error, line in (
        ("lacking.parquet", MissingDataError, "column 'ad_id' is missing"),
        ("other.parquet", DataError, "column 'ad_id' is int64, but in the logs it was string"),
        ("empty", MissingDataError, "no Parquet file"),
        ("text.parquet", CorruptDataError, r"text.parquet: cannot be read as Parquet: .*footer"),
        ("cut.parquet", CorruptDataError, r"cut.parquet: cannot be read as Parquet: .* → write"),
    ):
        with pytest.raises(error, match=line):
            score_files(bundle, tmp_path / name, tmp_path / "to")
        assert not (tmp_path / "to").exists()
        assert not list(tmp_path.glob(".tmp-*"))
    with pytest.raises(ConfigError, match="the folder already exists"):
        score_files(bundle, tmp_path / "other.parquet", tmp_path / "empty")
    with pytest.raises(ConfigError, match="--keep probability: the column of the scores has this"):
        score_files(bundle, tmp_path / "other.parquet", tmp_path / "to", keep=["probability"])


@pytest.fixture(scope="module")
def promoted(night):
    """Promote the night; the stages that a promotion needs have run."""
    for name in ("train_baseline", "evaluate"):
        night.stage(name)
    export = night.stage("export")
    pointer = ChampionPointer(night.run.workspace, "small")
    return pointer.promote(
        run_id=night.run.run_id, night=night.run.date, bundle_uri=export.uri,
        bundle_digest=export.manifest.digest, reason="tests",
    )  # fmt: skip


def test_score_day_scores_logged_rows_as_a_stage_with_costs(night, promoted, tmp_path):
    workspace = night.run.workspace
    champion, scores = score_day(workspace, "small", cache_folder=tmp_path)
    assert champion.number == promoted.number
    folder = workspace.at(scores.uri) / "scores" / f"dt={night.run.date}"
    scored = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))
    assert scored.num_rows == scores.manifest.rows.written == len(night.raw())
    assert scored.column_names == [
        "nb_key", "impression_id", "user_id", "ad_id", "time", "probability"
    ]  # fmt: skip
    expected = Bundle.load(night.folder("export")).score(night.raw())
    assert scored["probability"].to_pylist() == expected.tolist()
    assert "scores.json" in {path.name for path in folder.iterdir()}
    # A repeated request reuses the scores; it is no night, and its cost is in the ledger.
    _, again = score_day(workspace, "small", cache_folder=tmp_path)
    assert again.reused
    assert again.uri == scores.uri
    assert [run.run_id for run in runs_of(workspace, "small") if "score" in run.run_id] == []
    entries = (night.root / "ws" / "ledger").rglob("*")
    assert any("score" in path.read_text() for path in entries if path.is_file())
    # Scoring another day of the logs samples it first.
    earlier = night.run.date - dt.timedelta(days=1)
    _, other = score_day(workspace, "small", earlier, cache_folder=tmp_path)
    assert (workspace.at(other.uri) / "scores" / f"dt={earlier}").is_dir()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rows": 1999}, "1,999 scores for 2,000 rows"),
        ({"not_probabilities": 3}, "3 scores are no probabilities"),
        ({"mean_probability": 0.3}, "the mean probability is 0.3, not near 0.05"),
        ({}, ""),
    ],
)
def test_invalid_scores_are_rejected_before_they_are_published(changes, line):
    summary = {"rows": 2000, "not_probabilities": 0, "mean_probability": 0.06, **changes}
    if not line:
        check(summary, 2000, 0.05)
        return
    with pytest.raises(DataError, match=line):
        check(summary, 2000, 0.05)
