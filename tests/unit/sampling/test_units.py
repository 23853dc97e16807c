"""A day that is split into units has the rows, counts and statistics of the whole day."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.data import units
from nightbid.data.source import WholeDay, open_source
from nightbid.errors import CorruptDataError
from nightbid.night.task import Outcome
from nightbid.sampling.beam import sample_on
from nightbid.sampling.day import units_of
from nightbid.sampling.engine import sampled
from nightbid.sampling.stage import run
from nightbid.schema import KEY, WEIGHT
from nightbid.storage.verify import inventory
from tasks import task_of

FIRST = date(2026, 1, 1)
ROWS = 400


def rows_of(at: int, *, first: int = 0, count: int = ROWS) -> pa.Table:
    """Make rows of a day; some keys come twice, some rows lack a time or a user."""
    start = (FIRST + timedelta(days=at) - date(1970, 1, 1)).days * 86_400
    numbers = range(first, first + count)
    return pa.table(
        {
            "impression_id": [f"{at}-{n % 370}" for n in numbers],
            "time": [None if n % 97 == 5 else start + n for n in numbers],
            "user_id": [None if n % 53 == 7 else f"u{n % 17}" for n in numbers],
            "ad_id": [f"a{n % 7}" for n in numbers],
            "price": [n / 8 for n in numbers],
            "click": [int(n * 7 % 5 == 0) for n in numbers],
        }
    )


def write(table: pa.Table, folder: Path, kind: str, name: str = "part") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=64)
    elif kind == "orc":
        orc.write_table(table, path, stripe_size=1024, batch_size=64)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif kind == "avro":
        types = ("string", "long", "string", "string", "double", "long")
        fields = [
            {"name": name, "type": ["null", avro_type]}
            for name, avro_type in zip(table.column_names, types, strict=True)
        ]
        with open(path, "wb") as stream:
            schema = {"type": "record", "name": "row", "fields": fields}
            fastavro.writer(stream, fastavro.parse_schema(schema), table.to_pylist())
    else:
        options = pcsv.WriteOptions(quoting_style="none")
        content = pa.BufferOutputStream()
        pcsv.write_csv(table, content, options)
        text = content.getvalue().to_pybytes()
        lines = text.splitlines(keepends=True)
        # Two lines in the middle of the file have the wrong length.
        text = b"".join([*lines[:150], b"1,2,3\n", *lines[150:200], b"x\n", *lines[200:]])
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., tuple[Outcome, Path]]:
    """Sample a night with two training days into its own workspace."""
    count = iter(range(100))

    def start(
        kind: str = "parquet", newest: int = 3, workspace: str = "", **blocks: object
    ) -> tuple[Outcome, Path]:
        here = tmp_path / f"{next(count)}"
        (here / "out").mkdir(parents=True)
        spec = PipelineSpec.model_validate(
            {
                "pipeline": "t",
                "source": {"kind": kind, "folder": str(tmp_path / "logs")},
                "features": {"ad_id": {}},
                "window": {"train_days": 2},
                "sampling": {"negative_rate": 0.5},
                **blocks,
            }
        )
        task = task_of(
            spec,
            FIRST + timedelta(days=newest),
            here / "out",
            workspace=tmp_path / workspace if workspace else here / "w",
            cache=tmp_path / "cache",
        )
        return run(task), here / "out"

    return start


def write_days(tmp_path: Path, kind: str, files: int = 1, days: int = 4) -> None:
    for at in range(days):
        size = ROWS // files
        for n in range(files):
            table = rows_of(at, first=n * size, count=size)
            write(table, tmp_path / "logs" / f"dt={FIRST + timedelta(days=at)}", kind, f"part{n}")


def limit_units(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Limit units to a part of a day."""
    monkeypatch.setattr(units, "UNIT_ROWS", max(1, int(ROWS * share)))
    monkeypatch.setattr(units, "UNIT_BYTES", max(1, int(14_000 * share)))


def concatenated(folder: Path, pattern: str) -> list[pa.Table]:
    """Return each day's rows, with its files concatenated."""
    tables = []
    for day in sorted(folder.glob(pattern)):
        paths = sorted(day.glob("part-*.parquet"))
        tables.append(pa.concat_tables([pq.ParquetFile(path).read() for path in paths]))
    return tables


def bytes_of(folder: Path) -> dict[str, str]:
    return {file.path: file.digest for file in inventory(folder)}


@pytest.mark.parametrize("kind", ["parquet", "orc", "jsonl", "csv", "csv.gz", "avro"])
@pytest.mark.parametrize(("files", "share"), [(1, 0.5), (4, 0.2)])
def test_units_give_the_rows_and_statistics_of_the_whole_day(
    sample, tmp_path, monkeypatch, kind, files, share
):
    write_days(tmp_path, kind, files)
    name = kind.partition(".")[0]
    whole, one = sample(name)
    assert len(list(one.glob("split=*/dt=*/part-*"))) == 4
    limit_units(monkeypatch, share)
    outcome, many = sample(name)
    parts = len(list(many.glob("split=*/dt=*/part-*")))
    if kind in ("csv.gz", "avro"):
        assert parts > 4 if files == 4 else parts == 4
    else:
        assert parts >= 8
    assert outcome.rows == whole.rows
    assert outcome.metrics["days"] == whole.metrics["days"]
    assert outcome.metrics["quarantine"] == whole.metrics["quarantine"]
    assert outcome.summary == whole.summary
    assert concatenated(many, "split=*/dt=*") == concatenated(one, "split=*/dt=*")
    aside = [concatenated(folder, "quarantine/dt=*") for folder in (one, many)]
    if name == "csv":  # lines of the wrong length come after the other rows of their unit
        aside = [[rejected.sort_by("impression_id") for rejected in tables] for tables in aside]
    assert aside[0] == aside[1]
    alike = {path: digest for path, digest in bytes_of(one).items() if "part-" not in path}
    assert len(alike) == 5, "profiles of four days, and rows of one"
    assert alike.items() <= bytes_of(many).items()
    # 30 keys come twice; one lacks a time the first time and one the second time.
    assert whole.rows.repeated == 4 * 28


@pytest.fixture(scope="module")
def dask() -> Iterator[dict[str, object]]:
    """Return a runner on two worker processes of a Dask cluster that runs already."""
    from distributed import LocalCluster

    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1") as started:
        yield {"kind": "dask", "workers": 2, "scheduler": started.scheduler_address}


def test_every_runner_writes_the_same_bytes(sample, tmp_path, monkeypatch, dask):
    write_days(tmp_path, "parquet", 2)
    limit_units(monkeypatch, 0.4)
    _, expected = sample(runner={"workers": 2})
    assert len(bytes_of(expected)) > 20
    assert bytes_of(sample(runner={"workers": 1})[1]) == bytes_of(expected)
    assert bytes_of(sample(runner=dask)[1]) == bytes_of(expected)


def test_beams_direct_runner_writes_the_same_bytes(tmp_path, monkeypatch):
    write_days(tmp_path, "parquet")
    limit_units(monkeypatch, 0.2)
    source = {"kind": "parquet", "folder": str(tmp_path / "logs")}
    block = {"pipeline": "t", "source": source, "features": {"ad_id": {}}}
    spec = PipelineSpec.model_validate(block)
    logs = open_source(spec.source, tmp_path / "cache")
    day_units = units_of(logs, FIRST, "train", WholeDay(FIRST, logs))
    assert len(day_units) > 4
    list(sampled(day_units, spec, tmp_path / "threads", lambda _: None))
    sample_on(day_units, spec, tmp_path / "beam", lambda _: None)
    assert bytes_of(tmp_path / "beam") == bytes_of(tmp_path / "threads")


def test_dask_workers_sample_sources_without_units(sample, dask):
    """The workers themselves open a source that is not split into units."""
    source = {"kind": "simulator", "rows_per_day": 300, "users": 50, "ads": 20}
    _, expected = sample(source=source)
    _, folder = sample(source=source, runner=dask)
    assert bytes_of(folder) == bytes_of(expected)


def test_a_thinned_day_has_the_same_bytes_from_units_or_logs(sample, tmp_path, monkeypatch):
    """A day thinned from its parts or from the logs has the same bytes and no repeated key."""
    write_days(tmp_path, "parquet", days=5)
    limit_units(monkeypatch, 0.3)
    sample(workspace="w")
    outcome, folder = sample(newest=4, workspace="w")
    assert list(outcome.metrics["made"]) == ["2026-01-03", "2026-01-05"]
    assert bytes_of(folder) == bytes_of(sample(newest=4)[1])
    for table in concatenated(folder, "split=train/dt=*"):
        assert set(table[WEIGHT].to_pylist()) == {1.0, 2.0}
        assert len(set(table[KEY].to_pylist())) == len(table) > 150


def test_generated_keys_are_the_same_in_units(sample, tmp_path, monkeypatch):
    write_days(tmp_path, "parquet", 2)
    source = {"kind": "parquet", "folder": str(tmp_path / "logs"), "make_key": "row"}
    blocks = {"source": source, "columns": {"key": "row"}}
    _, one = sample(**blocks)
    limit_units(monkeypatch, 0.2)
    _, many = sample(**blocks)
    assert len(list(many.glob("split=*/dt=*/part-*"))) > 8
    assert concatenated(many, "split=*/dt=*") == concatenated(one, "split=*/dt=*")


def test_csv_files_with_quotes_are_not_split(sample, tmp_path, monkeypatch):
    """A quoted field may hold a line break, so the file cannot be split at any byte."""
    for at in range(4):
        folder = tmp_path / "logs" / f"dt={FIRST + timedelta(days=at)}"
        folder.mkdir(parents=True)
        pcsv.write_csv(rows_of(at), folder / "part.csv")
    limit_units(monkeypatch, 0.2)
    _, quoted = sample("csv")
    assert len(list(quoted.glob("split=*/dt=*/part-*"))) == 4


def test_a_damaged_file_is_reported_with_its_name(sample, tmp_path, monkeypatch):
    write_days(tmp_path, "parquet", 3)
    bad = tmp_path / "logs" / "dt=2026-01-03" / "part1.parquet"
    content = bytearray(bad.read_bytes())
    content[100:2000] = b"X" * 1900
    bad.write_bytes(content)
    limit_units(monkeypatch, 0.2)
    with pytest.raises(CorruptDataError, match=r"part1\.parquet: cannot be read as Parquet"):
        sample()
