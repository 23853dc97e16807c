"""Each day's statistics are computed once; merged features equal one pass, byte for byte."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import Night, Runner
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.features.statistics import merge_all, merge_many
from nightbid.features.statistics_files import load, save
from nightbid.featurize.groups import groups_of
from nightbid.featurize.passes import learning
from nightbid.featurize.runner import passes_on
from nightbid.featurize.stage import run
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.night.task import StageInput, StageTask
from nightbid.runner import run_stage
from nightbid.storage.verify import inventory
from nightbid.storage.workspace import Workspace
from upath import UPath

SPEC = """
pipeline: t
columns: {time: time}
window: {train_days: 2}
features:
  price: {transform: numeric, log1p: true}
  price_robust: {transform: numeric, column: price, scale: robust}
  price_bucket: {transform: quantile_buckets, column: price, buckets: 8}
  site: {min_count: 2, oov_buckets: 2}
  words: {transform: bag}
  site_rate: {transform: target_rate, columns: [site]}
  site_count: {transform: count, columns: [site]}
  last_sites: {transform: recent, column: site, by: [user], vocabulary: site, rows: all}
  hour: {transform: hour, column: time}
"""
DAY = 86_400_000_000
FIRST = date(2026, 2, 1)
START = (FIRST - date(1970, 1, 1)).days
ROWS = 400


def rows_of(day: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng([day, seed])
    # A day's logs contain some rows of the previous day.
    time = (START + day) * DAY + np.sort(draw.integers(-DAY // 9, DAY, ROWS))
    price = draw.lognormal(size=ROWS)
    return pa.table(
        {
            "price": pa.array(price, mask=draw.random(ROWS) < 0.1),
            "site": pa.array([f"site {number}" for number in draw.zipf(1.5, ROWS)]),
            "words": pa.array([[f"w{a}", f"w{b}"] for a, b in draw.integers(0, 40, (ROWS, 2))]),
            "user": pa.array(draw.integers(0, 30, ROWS)),
            "nb_key": pa.array(draw.integers(0, 2**60, ROWS)),
            "nb_label": pa.array((draw.random(ROWS) < 0.2).astype(np.float32)),
            "nb_weight": pa.array(np.full(ROWS, 1.5, np.float32)),
            "time": pa.array(time).cast(pa.timestamp("us", "UTC")),
            "nb_time": pa.array(time).cast(pa.timestamp("us", "UTC")),
            "nb_user": pa.array(draw.integers(0, 30, ROWS)),
        }
    )


@pytest.fixture
def featurize(tmp_path: Path):
    """Featurize a night of four days; return its outcome and the fitted features' files."""
    count = iter(range(100))

    def start(newest: int, text: str = SPEC, workspace: str = "w", seeds: dict | None = None):
        folder = tmp_path / str(next(count))
        spec = parse_pipeline(text, "t")
        night = Night.of(spec, FIRST + timedelta(days=newest))
        sample, output = folder / "sample", folder / "out"
        output.mkdir(parents=True)
        for split in ("train", "validate", "evaluate"):
            for day in night.days(split):
                path = sample / f"split={split}" / f"dt={day}" / "part-00000.parquet"
                path.parent.mkdir(parents=True)
                at = (day - FIRST).days
                pq.write_table(rows_of(at, (seeds or {}).get(at, 0)), path, row_group_size=150)
        manifest = Manifest(
            pipeline="t", run_id="r", stage="sample", night="", key="k", digest="d", inputs={},
            spec_digest="", code_digest="", versions={}, seed=0, files=inventory(sample),
            created=datetime.now(UTC),
        )  # fmt: skip
        task = StageTask(
            spec=spec, night=night, run_id="r", history=(), output=output, cache=tmp_path,
            inputs={"sample": StageInput(manifest, UPath(sample))},
            workspace=Workspace(str(tmp_path / workspace)),
        )  # fmt: skip
        outcome = run(task)
        groups = groups_of(sample, ["train", "validate", "evaluate"])
        with passes_on(Runner()) as run_pass:
            run_pass(learning(groups, Definition.of(spec), str(folder / "once"), threads=2))
        fitted = contents(output / "fitted")
        assert fitted == contents(folder / "once"), "not the bytes of one pass"
        assert not (output / ".learned").exists()
        return outcome.metrics["learned"], outcome.summary, contents(output)

    return start


def digests(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.digest for file in manifest.files}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_next_night_computes_statistics_of_changed_days_only(featurize):
    learned, summary, _ = featurize(3)
    assert set(learned.values()) == {"new"}
    assert "4 days, all new" in summary
    learned, summary, files = featurize(4)
    fitted = "price, price_bucket, price_robust, site, words"
    assert learned == {"2026-02-03": f"only {fitted}", "2026-02-05": "new"}
    assert "2 reused" in summary
    assert files == featurize(4, workspace="another")[2]
    assert featurize(4)[0] == {}


def test_only_a_corrected_day_is_computed_again(featurize):
    featurize(3)
    assert featurize(3, seeds={1: 7})[0] == {"2026-02-02": "new"}


def test_only_an_added_feature_is_fitted_and_a_setting_reuses_statistics(featurize):
    featurize(3)
    added = SPEC + "  user: {min_count: 1}\n"
    learned, _, _ = featurize(3, added)
    assert learned == {"2026-02-01": "only user", "2026-02-02": "only user"}
    changed = added.replace("min_count: 2", "min_count: 5").replace("buckets: 8", "buckets: 5")
    learned, _, files = featurize(3, changed)
    assert learned == {}
    assert files == featurize(3, changed, workspace="another")[2]
    # The statistics that another feature computed for the column are reused.
    assert featurize(3, SPEC.replace("site: {", "site: {column: user, "))[0] == {}


def test_only_changed_features_are_recomputed_with_identical_bytes(tmp_path, monkeypatch):
    """The runner finds the earlier output where nights store it."""
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "cache"))
    lines = SPEC.replace(
        "pipeline: t\n", "pipeline: t\nsource: {kind: simulator, rows_per_day: 700, users: 90}\n"
    )
    first = lines.split("features:\n")[0]
    text = (
        first
        + """features:
  hour: {transform: hour, column: time}
  age: {transform: numeric, column: ad_age_days, missing_indicator: true}
  interests: {transform: bag}
  ad_id: {min_count: 2}
  last_ads: {transform: recent, column: ad_id, by: [user_id], vocabulary: ad_id}
  ad_rate: {transform: target_rate, columns: [ad_id]}
  has_site: {transform: hash, column: site_id, buckets: 1}
"""
    )

    def night(text: str, workspace: str):
        spec = parse_pipeline(text, "t")
        place = Workspace(str(tmp_path / workspace))
        run_id = f"r{len(list((tmp_path / workspace).glob('runs/t/*')))}"
        run_ = RunRecord.start(place, spec, date(2026, 1, 8), run_id=run_id)
        for name in ("sample", "featurize"):
            result = run_stage(stage_named(name), spec, run_, cache_folder=tmp_path / "cache")
        return result.manifest

    night(text, "w")
    changed = text.replace("ad_id: {min_count: 2}", "ad_id: {min_count: 9}")
    # Columns of zeros and ones are compared with each other even if they are not computed.
    changed += "  device_type: vocabulary\n  has_ad: {transform: hash, column: ad_id, buckets: 1}\n"
    reused, alone = night(changed, "w"), night(changed, "alone")
    assert reused.metrics["computed"] == ["ad_id", "device_type", "has_ad", "last_ads"]
    assert "computed ad_id, device_type, has_ad, last_ads alone" in reused.summary
    assert len(alone.metrics["computed"]) == 9
    place = tmp_path / "w" / "stages" / "t" / "featurize" / reused.key / "profile"
    assert "has_ad without has_site" in (place / "split=train.json").read_text()
    assert digests(reused) == digests(alone)
    # Removing a feature computes nothing.
    fewer = changed.replace("  hour: {transform: hour, column: time}\n", "")
    reused = night(fewer, "w")
    assert reused.metrics["computed"] == []
    assert digests(reused) == digests(night(fewer, "alone2"))


def test_a_damaged_statistic_is_computed_again(featurize, tmp_path):
    _, _, files = featurize(3)
    folder = tmp_path / "w" / "days" / "learn" / "2026-02-02"
    path = sorted(folder.rglob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    learned, _, again = featurize(3)
    assert learned == {"2026-02-02": "its output was damaged"}
    assert again == files
    assert featurize(3)[0] == {}


@settings(max_examples=12)
@given(order=st.randoms(use_true_random=False), cuts=st.sets(st.integers(1, 899), max_size=6))
def test_merged_statistics_equal_one_pass_byte_for_byte(tmp_path, order, cuts):
    definition = Definition.of(parse_pipeline(SPEC, "t"))
    table = pa.concat_tables([rows_of(0), rows_of(1), rows_of(2)]).slice(0, 900)
    once = learn(definition.features, table, train=True)
    edges = [0, *sorted(cuts), 900]
    parts = [table.slice(a, b - a) for a, b in pairwise(edges)]
    order.shuffle(parts)
    folder = tmp_path / str(random.random())
    states: dict[str, list] = {}
    for number, part in enumerate(parts):
        for name, statistic in learn(definition.features, part, train=True).items():
            path = save(statistic, folder / str(number), name)
            states.setdefault(name, []).append(load(path))
    merged = {name: merge_many(loaded) for name, loaded in states.items()}
    for name, statistic in once.items():
        whole = save(statistic, folder / "once", name).read_bytes()
        assert save(merged[name], folder / "merged", name).read_bytes() == whole, name
    for name, statistics in (("a", merged), ("b", merge_all({}, once))):
        FittedFeatures.fit(definition, statistics).save(folder / name)
    assert contents(folder / "a") == contents(folder / "b")
