"""`window.history_days`: days that are used only for the history of rows."""

from __future__ import annotations

import contextlib
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import GateStopped
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.runner import run_stage
from nightbid.schema import KEY, LABEL, split_files
from nightbid.storage.workspace import Workspace, read_manifest

NEWEST = date(2026, 1, 10)
TRAIN, VALIDATE = date(2026, 1, 8), date(2026, 1, 9)
FEATURES = {
    "ad_id": {"min_count": 2},
    "ad_age_days": {"transform": "numeric", "scale": "standard"},
    "user_ctr": {"transform": "target_rate", "columns": ["user_id"], "strength": 5},
    "user_volume": {"transform": "count", "columns": ["user_id"]},
    "last_ads": {
        "transform": "recent",
        "by": ["user_id"],
        "column": "ad_id",
        "length": 3,
        "vocabulary": "ad_id",
    },
}
OF_THE_PAST = ("user_ctr", "user_volume", "last_ads")


class Featurized:
    """One night with sampled and featurized rows."""

    def __init__(self, folder: Path, history: int, faults: tuple[str, ...] = (), **window) -> None:
        self.folder = folder
        self.spec = PipelineSpec.model_validate(
            {
                "pipeline": "t",
                "source": {
                    "kind": "simulator", "rows_per_day": 1500, "users": 60, "ads": 40,
                    "faults": faults,
                },
                "features": FEATURES,
                "window": {"train_days": 1, "history_days": history, **window},
                "runner": {"kind": "direct", "workers": 1},
            }
        )  # fmt: skip
        workspace = Workspace(str(folder / "workspace"))
        record = RunRecord.start(workspace, self.spec, NEWEST)
        sampled, featurized = (
            run_stage(stage_named(name), self.spec, record, cache_folder=folder / "cache")
            for name in ("sample", "featurize")
        )
        self.record = record
        self.sampled, self.featurized = (
            Path(str(workspace.at(output.uri))) for output in (sampled, featurized)
        )
        self.summary = sampled.manifest.summary

    def rows(self, split: str) -> pa.Table:
        files = split_files(self.featurized, split)
        return pa.concat_tables([pq.read_table(path, partitioning=None) for path in files])

    def fitted(self, name: str) -> list[bytes]:
        paths = sorted((self.featurized / "fitted").rglob(f"*{name}*"))
        return [path.read_bytes() for path in paths if path.is_file()]


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> dict[int, Featurized]:
    folder = tmp_path_factory.mktemp("nights")
    return {days: Featurized(folder / str(days), days) for days in (0, 3)}


def test_history_days_give_the_first_training_day_a_history(nights) -> None:
    without, with_days = (nights[days].rows("train") for days in (0, 3))
    assert with_days[KEY].equals(without[KEY]), "history rows are not learned from"
    for name in OF_THE_PAST[:2]:
        assert not np.any(without[name].to_numpy()), "no day before the first is known"
        assert np.mean(with_days[name].to_numpy() != 0) > 0.9
    assert "3 of them for history only" in nights[3].summary


def test_history_days_do_not_change_vocabularies_or_scales(nights) -> None:
    without, with_days = nights[0], nights[3]
    assert without.fitted("ad_id") == with_days.fitted("ad_id")
    for name in ("ad_id", "ad_age_days"):
        for split in ("train", "validate", "evaluate"):
            assert with_days.rows(split)[name].equals(without.rows(split)[name])
    assert not (with_days.featurized / "split=history").exists()


@pytest.mark.parametrize("day", [TRAIN, VALIDATE, NEWEST])
def test_rates_use_no_label_of_the_same_day_or_later(nights, tmp_path: Path, day: date) -> None:
    changed = Featurized(tmp_path, 3, (f"labels_inverted@{day}",))
    for split, of in (("train", TRAIN), ("validate", VALIDATE), ("evaluate", NEWEST)):
        rows, reference = changed.rows(split), nights[3].rows(split)
        same = rows["user_ctr"].equals(reference["user_ctr"])
        assert rows[LABEL].equals(reference[LABEL]) == (of != day)
        assert same == (of <= day), f"{split} rows and labels of {day}"


def test_history_days_before_the_first_log_are_skipped(tmp_path: Path) -> None:
    night = Featurized(tmp_path, 12)
    assert "7 of 12 of them for history only" in night.summary
    days = sorted(path.name for path in (night.sampled / "split=history").iterdir())
    assert days[0] == "dt=2026-01-01"


def test_the_features_gate_finds_no_lost_rows(nights) -> None:
    for night in nights.values():
        with contextlib.suppress(GateStopped):  # the gate stops on so few rows
            run_stage(
                stage_named("gate_features"), night.spec, night.record,
                cache_folder=night.folder / "cache",
            )  # fmt: skip
        output = night.record.workspace.at(night.record.stage("gate_features").uri)
        checks = read_manifest(output).metrics["checks"]
        (lost,) = [check for check in checks if check["name"] == "lost_rows"]
        assert lost["observed"] == "0"
