"""Files of Criteo and Avazu, as published."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.data import delimited
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError
from nightbid.schema import REASON

from .folders import DAY, DAYS, opened, read, write_csv


def criteo_lines(rows: int) -> list[str]:
    return [
        "\t".join(
            [str(int(at % 5 == 0))]
            + [str(at + n) if n % 3 else "" for n in range(13)]
            + [f"{at * n % 97:08x}" for n in range(26)]
        )
        for at in range(rows)
    ]


def test_criteo_in_one_file_is_split_into_days(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(criteo_lines(700)) + "\n")
    (tmp_path / "test.txt").write_text("no label here\n")
    logs = opened(tmp_path, "csv", layout="criteo", days_per_file=7, first_day=DAY)
    assert len(logs.days()) == 7
    days = [read(logs, day) for day in logs.days()]
    whole = pa.concat_tables(days)
    assert [abs(len(day) - 100) <= 10 for day in days] == [True] * 7
    assert whole["I2"].to_pylist() == [at + 1 for at in range(700)]
    assert whole["C2"].to_pylist()[1] == "00000001"
    assert whole["I1"].null_count == 700
    assert len(whole["impression_id"].unique()) == 700
    assert days[1]["time"].unique().to_pylist() == [datetime(2026, 1, 2, tzinfo=UTC)]
    assert "label" in logs.meaning.outcomes
    with gzip.open(tmp_path / "train.txt.gz", "wb") as stream:
        stream.write((tmp_path / "train.txt").read_bytes())
    (tmp_path / "train.txt").unlink()
    with pytest.raises(CorruptDataError, match="cannot be split into 7 days"):
        opened(tmp_path, "csv", layout="criteo", days_per_file=7).days()
    assert len(read(opened(tmp_path, "csv", layout="criteo"))) == 700


def test_criteo_day_files_are_read_by_day(tmp_path):
    for day in (0, 1, 10):
        text = "\n".join(criteo_lines(10 + day)) + "\n"
        with gzip.open(tmp_path / f"day_{day}.gz", "wb") as stream:
            stream.write(text.encode())
    logs = opened(tmp_path, "csv", layout="criteo", first_day=DAY)
    assert logs.days() == (DAY, DAYS[1], date(2026, 1, 11))
    assert [len(read(logs, day)) for day in logs.days()] == [10, 11, 20]


AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def avazu_line(at: int, hour: int, device: str = "a99f214a") -> str:
    return (
        f"{10**18 + at},{at % 2},{hour},1005,0,s,d,c,a,b,e,{device},ip{at % 3},m,1,2,15706,320,50,"
        "1722,0,35,-1,79"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_avazu_in_one_file_is_split_into_days(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 2048)
    lines = [avazu_line(at, 14102100 + at * 24 // 100) for at in range(100)]
    lines += [avazu_line(100 + at, 14102200 + at * 24 // 100, "d0") for at in range(100)]
    lines[150] = "cut off"
    lines[5] = lines[5].replace(",1,14102101", ",maybe,14102101")
    data = "\n".join([AVAZU, *lines, ""]).encode()
    (tmp_path / ("train.gz" if packed else "train.csv")).write_bytes(
        gzip.compress(data) if packed else data
    )
    logs = opened(tmp_path, "csv", layout="avazu")
    assert logs.days() == (date(2014, 10, 21), date(2014, 10, 22))
    first, second = (read(logs, day) for day in logs.days())
    assert (len(first), len(second)) == (100, 100)
    rows = first.to_pylist()
    assert rows[0]["impression_id"] == "1000000000000000000"
    assert rows[0]["user_id"] == "ip0-m"
    assert rows[99]["time"] == datetime(2014, 10, 21, 23, tzinfo=UTC)
    assert rows[5][REASON] == "click is not a whole number"
    assert second["user_id"].to_pylist()[0] == "d0"
    assert second[REASON].drop_null().to_pylist() == ["line has 1 field, not 24"]


def test_a_file_that_is_not_avazu_is_rejected(tmp_path):
    write_csv(tmp_path, "a,b\n1,2\n", "train.csv")
    with pytest.raises(MissingDataError, match="column 'hour' is missing"):
        opened(tmp_path, "csv", layout="avazu").days()


def test_criteo_layout_requires_csv():
    source = "{kind: parquet, folder: x, layout: criteo}"
    text = f"pipeline: p\nfeatures: {{C1: vocabulary}}\nsource: {source}"
    with pytest.raises(ConfigError, match="layout criteo needs `kind: csv`"):
        parse_pipeline(text, "p.yaml")
