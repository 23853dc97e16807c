"""KuaiRand's impressions: all rows of a day, joined, with outcomes that no feature may read."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.sources import KuaiRandSource
from nightbid.data.kuairand import KuaiRandLogs
from nightbid.data_check.check import check_folder
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.features.outcomes import refuse_outcomes

DAY = date(2022, 5, 5)


@pytest.fixture(scope="module")
def logs(kuairand_folder):
    return KuaiRandLogs(KuaiRandSource(kind="kuairand", folder=str(kuairand_folder)))


@pytest.fixture(scope="module")
def day(logs):
    return pa.Table.from_batches(list(logs.batches(DAY)))


def test_kuairand_days_contain_all_rows_of_the_files(logs, day, kuairand_folder):
    days = logs.days()
    assert len(days) == 14
    assert (days[0], days[-1]) == (date(2022, 4, 25), date(2022, 5, 8))
    files = sorted(kuairand_folder.glob("*_2022*.parquet"))
    dates = pa.concat_tables([pq.read_table(path, columns=["date"]) for path in files])["date"]
    assert len(day) == pc.sum(pc.equal(dates.cast(pa.string()), "20220505")).as_py()


def test_users_and_videos_are_joined_to_the_right_rows(day, kuairand_folder):
    tables = {}
    for name in ("user_features_pure.csv.gz", "video_features_basic_pure.csv.gz"):
        tables[name] = pcsv.read_csv(kuairand_folder / name).to_pandas()
    users = tables["user_features_pure.csv.gz"].set_index("user_id")
    videos = tables["video_features_basic_pure.csv.gz"].set_index("video_id")
    for row in day.take([0, 17, len(day) - 1]).to_pylist():
        assert row["register_days"] == users.loc[row["user_id"], "register_days"]
        assert row["author_id"] == videos.loc[row["video_id"], "author_id"]


def test_times_fall_on_their_day_in_china(day):
    local = np.asarray(day["time"].cast(pa.timestamp("us"))) + np.timedelta64(8, "h")
    # The published files put one row in a hundred into a neighboring day.
    assert (local.astype("datetime64[D]") == np.datetime64(DAY)).mean() > 0.98
    assert pc.sum(pc.is_null(day["time"])).as_py() == 0


@pytest.mark.parametrize("column", ["long_view", "play_time_ms", "is_like"])
def test_outcomes_are_rejected_as_features(logs, column):
    spec = PipelineSpec.model_validate(
        {
            "pipeline": "p",
            "source": {"kind": "kuairand", "folder": "x"},
            "label": {"column": "is_click"},
            "features": {"fine": {"column": "tab"}, "leak": {"column": column}},
        }
    )
    with pytest.raises(CorruptDataError, match=f"'leak' reads '{column}'"):
        refuse_outcomes(spec, logs.meaning.outcomes)


def test_a_missing_day_is_reported_with_the_days_present(logs):
    with pytest.raises(MissingDataError, match=r"no rows of 2022-06-01.*2022-05-08"):
        list(logs.batches(date(2022, 6, 1)))


def test_folders_without_kuairand_files_are_rejected(tmp_path, kuairand_folder):
    def opened():
        return KuaiRandLogs(KuaiRandSource(kind="kuairand", folder=str(tmp_path)))

    with pytest.raises(MissingDataError, match="no KuaiRand logs"):
        opened()
    (tmp_path / "log_20220501.parquet").write_bytes(b"PAR1 and no more")
    for name in ("log_20220501.parquet", "video_features_basic_pure.csv.gz"):
        with pytest.raises(MissingDataError, match="user_features_pure"):
            opened()
        (tmp_path / name).touch()
    for name in ("user_features_pure.csv.gz", "user_sequences.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(CorruptDataError, match="not a Parquet file"):
        opened().days()


@pytest.mark.slow
def test_data_check_drafts_no_feature_from_outcomes(logs, kuairand_folder, tmp_path):
    report = check_folder(str(kuairand_folder), tmp_path)
    spec = parse_pipeline(report.yaml, f"{report.pipeline}.yaml")
    outcomes = KuaiRandLogs(
        KuaiRandSource(kind="kuairand", folder=str(kuairand_folder))
    ).meaning.outcomes
    read = {column for name, feature in spec.features.items() for column in feature.sources(name)}
    assert {"watch_ratio", "is_positive"} <= set(outcomes)
    assert not read & logs.meaning.outcomes
