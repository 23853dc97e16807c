"""A day of logs is sampled once, and again only if something that it depends on changes."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.errors import CorruptDataError, DataError
from nightbid.night.days import days_made
from nightbid.sampling.stage import fingerprint, run
from nightbid.storage.verify import inventory
from tasks import task_of

FIRST = date(2026, 1, 1)
ROWS = 200


def write_day(folder: Path, day: date, *, ids: type = int, salt: int = 0) -> None:
    start = (day - date(1970, 1, 1)).days * 86_400_000_000
    table = pa.table(
        {
            "impression_id": [f"{day}-{at}" for at in range(ROWS)],
            "time": pa.array([start + at for at in range(ROWS)], pa.timestamp("us", "UTC")),
            "user_id": [f"u{at % 17}" for at in range(ROWS)],
            "ad_id": [ids(at % 7) for at in range(ROWS)],
            "interests": [[f"i{at % 3}", "i9"] for at in range(ROWS)],
            "click": [int((at * 7 + salt) % 5 == 0) for at in range(ROWS)],
        }
    )
    path = folder / f"dt={day}" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for at in range(6):
        write_day(tmp_path / "logs", FIRST + timedelta(days=at))
    return tmp_path / "logs"


@pytest.fixture
def sample(tmp_path: Path, logs: Path):
    """Sample a night; return the sampled days with reasons, and the digest of every file."""
    count = iter(range(100))

    def start(newest: int, workspace: str = "w", pipeline: str = "t", **blocks):
        output = tmp_path / f"out{next(count)}"
        output.mkdir()
        spec = PipelineSpec.model_validate(
            {
                "pipeline": pipeline,
                "source": {"kind": "parquet", "folder": str(logs)},
                "features": {"ad_id": {}},
                "window": {"train_days": 2},
                **blocks,
            }
        )
        task = task_of(
            spec,
            FIRST + timedelta(days=newest),
            output,
            workspace=tmp_path / workspace,
            cache=tmp_path / "cache",
        )
        reasons = run(task).metrics["made"]
        return reasons, {file.path: file.digest for file in inventory(output)}

    return start


def test_the_next_night_samples_only_the_newest_day(sample):
    reasons, _ = sample(4)
    assert reasons == {f"2026-01-0{day}": "new" for day in (2, 3, 4, 5)}
    reasons, files = sample(5)
    assert reasons == {"2026-01-06": "new"}
    assert files == sample(5, workspace="another")[1]
    assert sample(5, pipeline="other")[0] == {}
    assert sample(5, pipeline="other", features={"user_id": {}}, train={"epochs": 1})[0] == {}


def test_only_days_with_changed_bytes_are_sampled_again(sample, logs):
    sample(4)
    write_day(logs, FIRST + timedelta(days=2), salt=1)
    assert sample(4)[0] == {"2026-01-03": "logs changed"}
    # The same bytes are loaded again.
    path = logs / "dt=2026-01-03" / "part.parquet"
    path.write_bytes(path.read_bytes())
    os.utime(path)
    assert sample(4)[0] == {}


def test_a_reason_that_holds_for_all_days_is_named_once():
    why = "columns changed (key: a → b)"
    made = {f"2026-01-0{day}": why for day in range(1, 6)}
    assert days_made(made, 5) == f"5 days, all made again ({why})"
    assert days_made({**made, "2026-01-06": "new"}, 9) == (
        f"9 days, 3 reused, made 2026-01-03, 2026-01-04, 2026-01-05 ({why}),"
        " 2026-01-06 (new) and 2 more"
    )


def test_days_are_sampled_again_when_a_column_type_widens(sample, logs):
    sample(4)
    write_day(logs, FIRST + timedelta(days=5), ids=str)
    reasons, files = sample(5)
    assert reasons == {
        **{f"2026-01-0{day}": "types changed (ad_id: int64 → string)" for day in (3, 4, 5)},
        "2026-01-06": "new",
    }
    assert files == sample(5, workspace="another")[1]
    # The other window still has its own version.
    assert sample(4)[0] == {}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("note", r"part2.*'note' does not have the same type as in .*part.parquet: it is list"),
        ("only", r"part2.*column 'only' of part.parquet of the same day is missing"),
        ("late", r"part2.*has the column 'late', which part.parquet of the same day lacks"),
        ("size", r"part2.*column 'size' is int64 here and double in other files"),
    ],
)
def test_an_unreadable_column_is_rejected_once_a_feature_reads_it(
    sample, logs, tmp_path, column, message
):
    """Neither the stage nor the day that was sampled without the column is reused."""
    path = logs / "dt=2026-01-05" / "part.parquet"
    table = pq.read_table(path)
    other = table.set_column(0, "impression_id", pa.array([f"other-{at}" for at in range(ROWS)]))
    extra = {"note": ["a"], "only": [1], "size": [1.5]}
    later = {"note": [[1.5]], "late": [1], "size": [2**60 + 1]}
    for rows, name, columns in ((table, "part", extra), (other, "part2", later)):
        for field, values in columns.items():
            rows = rows.append_column(field, pa.array(values * ROWS))
        pq.write_table(rows, path.with_name(f"{name}.parquet"))

    def key(**features: dict[str, str]) -> str:
        spec = PipelineSpec.model_validate(
            {
                "pipeline": "t",
                "source": {"kind": "parquet", "folder": str(logs)},
                "features": {"ad_id": {}, **features},
                "window": {"train_days": 2},
            }
        )
        return fingerprint(spec, Night.of(spec, FIRST + timedelta(days=4)), tmp_path / "cache")

    assert key() == key(user_id={})
    assert key() != key(**{column: {}})
    sample(4)
    with pytest.raises(DataError, match=message):
        sample(4, features={"ad_id": {}, column: {}})


def test_days_are_sampled_again_for_training_with_negative_sampling(sample):
    rare = {"sampling": {"negative_rate": 0.5}}
    sample(4, **rare)
    reasons, files = sample(5, **rare)
    assert reasons == {
        "2026-01-04": "sampling changed (negative_rate: 1.0 → 0.5)",
        "2026-01-06": "new",
    }
    # A thinned day has the same bytes whether it is made of the whole day or of the logs.
    assert files == sample(5, workspace="another", **rare)[1]


def test_a_changed_column_role_is_the_reason_to_sample_again(sample):
    sample(4)
    reasons, _ = sample(4, columns={"item": "user_id"})
    assert set(reasons.values()) == {"columns changed (item: ad_id → user_id)"}


def test_a_damaged_day_is_set_aside_and_sampled_again(sample, tmp_path):
    _, whole = sample(4)
    for path in (tmp_path / "w" / "days" / "sample" / "2026-01-03").rglob("rows.parquet"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:-1] + b"X")
    reasons, files = sample(4)
    assert reasons == {"2026-01-03": "its output was damaged"}
    assert files == whole
    assert sample(4)[0] == {}


def test_a_failing_day_keeps_earlier_days_and_leaves_no_partial_output(sample, logs, tmp_path):
    bad = logs / "dt=2026-01-05" / "part.parquet"
    pq.write_table(pq.read_table(bad).slice(0, 0), bad)
    with pytest.raises(CorruptDataError, match="the day is empty"):
        sample(4)
    assert not list((tmp_path / "w").rglob(".tmp-*"))
    write_day(logs, FIRST + timedelta(days=4))
    assert sample(4)[0] == {"2026-01-05": "new"}


def test_a_night_hard_links_the_files_of_its_days(sample, tmp_path):
    sample(4)
    one = next((tmp_path / "w").rglob("rows.parquet"))
    assert one.stat().st_nlink == 2
    assert hashlib.sha256(one.read_bytes()).hexdigest()


def test_concurrent_nights_that_share_days_write_the_same_files(tmp_path: Path, sample) -> None:
    names = [f"p{at}" for at in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        nights = list(pool.map(lambda name: sample(4, pipeline=name), names))
    assert all(files == nights[0][1] for _, files in nights)
    folders = [path.name for path in (tmp_path / "w/days/sample").glob("*/*")]
    assert len(folders) == 4, "one output a day, and no scratch folder is left"
    reasons, files = sample(4, pipeline="later")
    assert not reasons
    assert files == nights[0][1]
