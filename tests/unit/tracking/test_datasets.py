"""A frozen data set is the same bytes for everyone who uses it, or it is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError
from nightbid.night.manifest import FileEntry, Manifest, RowCounts
from nightbid.sampling.frozen import freeze, frozen, load, name_of, verified
from nightbid.storage.workspace import file_digest
from nightbid.tracking.payload import Payload

PART = "split=evaluate/dt=2026-01-20/part-00000.parquet"


@pytest.fixture
def sampled(recorded_run):
    """Record a run whose sampled rows exist."""

    def make(run_id: str = "ctr-2026-01-20", seed: int = 0):
        run = recorded_run(run_id, until="train")
        folder = Path(str(run.workspace.at(run.stage("sample").uri)))
        for split in ("train", "evaluate"):
            path = folder / PART.replace("evaluate", split)
            path.parent.mkdir(parents=True)
            values = np.random.default_rng(seed).normal(size=1000)
            pq.write_table(pa.table({"x": values}), path)
        files = tuple(
            FileEntry(
                path=path.relative_to(folder).as_posix(),
                size=path.stat().st_size,
                digest=file_digest(path),
            )
            for path in sorted(folder.rglob("*.parquet"))
        )
        text = "differs between equal runs"
        (folder / "log.txt").write_text(text)
        loose = FileEntry(path="log.txt", size=len(text), digest="")
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
        digest = hashlib.sha256("".join(entry.digest for entry in files).encode()).hexdigest()[:32]
        changed = manifest.model_copy(
            update={"files": (*files, loose), "digest": digest, "rows": RowCounts(written=2000)}
        )
        (folder / "manifest.json").write_text(changed.model_dump_json())
        return run

    return make


def test_frozen_rows_survive_deleting_their_run(sampled):
    run = sampled()
    dataset = freeze(run.workspace, run, "kuairand-week-1", reason="the benchmark of spring")
    source = run.workspace.at(run.stage("sample").uri)
    expected = (source / PART).read_bytes()
    for path in sorted(Path(str(source)).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder = verified(run.workspace, "kuairand-week-1")
    assert (folder / PART).read_bytes() == expected
    assert load(run.workspace, "kuairand-week-1") == dataset
    assert (dataset.rows, dataset.run_id) == (2000, run.run_id)
    assert frozen(run.workspace) == [dataset]


def test_freezing_the_same_rows_again_changes_nothing(sampled):
    run = sampled()
    first = freeze(run.workspace, run, "week-1")
    assert freeze(run.workspace, run, "week-1", reason="again") == first
    assert freeze(run.workspace, sampled("rerun"), "week-1") == first, "another run, equal rows"


def test_a_dataset_name_cannot_be_reused_for_other_rows(sampled):
    run, other = sampled(), sampled("other", seed=1)
    first = freeze(run.workspace, run, "week-1")
    with pytest.raises(ConfigError, match=r"'week-1' is frozen already, with other rows"):
        freeze(run.workspace, other, "week-1")
    assert load(run.workspace, "week-1") == first


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", ["flip a bit", "shorten", "delete", "swap the manifest"])
def test_changed_frozen_bytes_are_rejected_with_the_file(sampled, harm):
    run = sampled()
    freeze(run.workspace, run, "week-1")
    folder = Path(str(run.workspace.root)) / "datasets" / "week-1"
    path = folder / PART
    if harm == "flip a bit":
        flip(path)
    elif harm == "shorten":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "delete":
        path.unlink()
    else:
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(
            text.replace(load(run.workspace, "week-1").digest, "0" * 32)
        )
    error = MissingDataError if harm == "delete" else CorruptDataError
    with pytest.raises(error, match="manifest" if harm.startswith("swap") else PART) as caught:
        verified(run.workspace, "week-1")
    assert "'week-1'" in str(caught.value)


def test_rows_damaged_before_freezing_are_rejected(sampled):
    run = sampled()
    flip(Path(str(run.workspace.at(run.stage("sample").uri))) / PART)
    with pytest.raises(CorruptDataError, match="part-00000"):
        freeze(run.workspace, run, "week-1")
    assert frozen(run.workspace) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "UPPER", "a b", "x" * 81])
def test_invalid_dataset_names_are_rejected(sampled, name):
    run = sampled()
    with pytest.raises(ConfigError, match="is not a valid data set name"):
        freeze(run.workspace, run, name)
    with pytest.raises(MissingDataError, match="there are: none yet"):
        verified(run.workspace, name)


def test_freezing_a_run_without_rows_is_rejected(recorded_run):
    run = recorded_run(until="sample", error="no logs")
    with pytest.raises(MissingDataError, match="--until sample"):
        freeze(run.workspace, run, "week-1")


def test_tracking_logs_the_name_of_frozen_rows(sampled):
    run = sampled()
    assert Payload.of(run).data.name == "ctr-2026-01-20"
    dataset = freeze(run.workspace, run, "week-1")
    assert name_of(run.workspace, dataset.digest) == "week-1"
    data = Payload.of(sampled("another-engineer")).data
    assert (data.name, data.digest) == ("week-1", dataset.digest)
