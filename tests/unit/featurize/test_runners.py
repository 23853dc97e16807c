"""Every runner writes the same artifacts, for any row groups."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from emulator.installation import until
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import Night, Runner
from nightbid.errors import MissingDataError, StageError
from nightbid.features.fitted import Definition
from nightbid.featurize.groups import groups_of
from nightbid.featurize.passes import PartialStatistics, learning, transforming
from nightbid.featurize.runner import passes_on, threads_of
from nightbid.featurize.stage import checked
from preloaded import COMMANDS

SPEC = """
pipeline: t
columns: {time: time}
features:
  price: {transform: numeric, log1p: true}
  price_bucket: {transform: quantile_buckets, column: price, buckets: 8}
  site: {min_count: 2, oov_buckets: 2}
  site_rate: {transform: target_rate, columns: [site]}
  hour: {transform: hour, column: time}
"""
DAY = 86_400_000_000
ROWS = 3000


def sample(folder: Path, group: int) -> Path:
    draw = np.random.default_rng(5)
    for split, day in (("train", 0), ("train", 1), ("evaluate", 2)):
        time = (20_500 + day) * DAY + np.sort(draw.integers(0, DAY, ROWS))
        price = draw.lognormal(size=ROWS)
        table = pa.table(
            {
                "price": pa.array(price, mask=draw.random(ROWS) < 0.1),
                "site": pa.array([f"site {number}" for number in draw.zipf(1.5, ROWS)]),
                "nb_key": pa.array(draw.integers(0, 2**60, ROWS)),
                "nb_label": pa.array((draw.random(ROWS) < 0.2).astype(np.float32)),
                "nb_weight": pa.array(np.full(ROWS, 1.5, np.float32)),
                "time": pa.array(time).cast(pa.timestamp("us", "UTC")),
                "nb_time": pa.array(time).cast(pa.timestamp("us", "UTC")),
                "nb_user": pa.array(draw.integers(0, 99, ROWS)),
            }
        )
        path = folder / f"split={split}" / f"dt=2026-02-{day + 1:02d}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, row_group_size=group)
    return folder


def featurized(rows: Path, output: Path, runner: Runner, limit: int = 10**6) -> dict[str, bytes]:
    definition = Definition.of(parse_pipeline(SPEC, "t"))
    groups = groups_of(rows, ["train", "evaluate"])
    with passes_on(runner) as run_pass:
        threads = threads_of(runner)
        run_pass(learning(groups, definition, str(output / "fitted"), limit, threads))
        run_pass(transforming(groups, str(output / "fitted"), str(output), threads))
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("direct")
    return featurized(sample(folder / "rows", 500), folder / "out", Runner(workers=2))


def test_one_thread_gives_the_same_bytes_as_two(expected, tmp_path):
    assert len([name for name in expected if name.startswith("split=")]) == 18
    rows = sample(tmp_path / "rows", 500)
    assert featurized(rows, tmp_path / "out", Runner(workers=1)) == expected


def test_dask_workers_give_the_same_bytes(expected, tmp_path):
    rows = sample(tmp_path / "rows", 500)
    assert featurized(rows, tmp_path / "out", Runner(kind="dask", workers=2)) == expected


def test_row_groups_and_spilling_do_not_change_the_fitted_bytes(expected, tmp_path):
    rows = sample(tmp_path / "rows", 777)
    files = featurized(rows, tmp_path / "out", Runner(), limit=20)
    learned = {name: value for name, value in expected.items() if name.startswith("fitted")}
    assert learned == {name: value for name, value in files.items() if name.startswith("fitted")}


def test_concurrent_pipelines_in_one_process_do_not_interfere(expected, tmp_path):
    rows = sample(tmp_path / "rows", 500)
    with ThreadPoolExecutor(2) as pool:
        outputs = [tmp_path / "a", tmp_path / "b"]
        both = list(pool.map(lambda output: featurized(rows, output, Runner()), outputs))
    assert both == [expected, expected]


@pytest.mark.parametrize("feature", ["site:", "nowhere:"])
def test_memory_is_released_after_each_pass(tmp_path, feature):
    """A failed pass frees its memory too."""
    groups = groups_of(sample(tmp_path / "rows", 1500), ["train", "evaluate"])
    definition = Definition.of(parse_pipeline(SPEC.replace("site:", feature), "t"))
    for name in ("a", "b"):
        with suppress(MissingDataError), passes_on(Runner(workers=2)) as run_pass:
            run_pass(learning(groups, definition, str(tmp_path / name), threads=2))

    def is_released() -> bool:
        gc.collect()
        return not any(
            isinstance(part, PartialStatistics) and part.rows for part in gc.get_objects()
        )

    until(is_released)


def test_a_runner_can_be_configured_by_its_name_alone():
    spec = parse_pipeline("pipeline: t\nfeatures: {a: hash}\nrunner: dask", "t")
    assert spec.runner == Runner(kind="dask")


def test_rows_lost_by_a_runner_stop_the_stage(tmp_path):
    """Footers hold row counts; here one is too high, as if a row were lost."""
    groups = groups_of(sample(tmp_path / "rows", 1500), ["train", "evaluate"])
    groups[2] = replace(groups[2], rows=groups[2].rows + 1)
    definition = Definition.of(parse_pipeline(SPEC, "t"))
    message = r"learned from 9,000 rows of 9,001 → the runner lost or repeated rows"
    with passes_on(Runner()) as run_pass, pytest.raises(StageError, match=message) as error:
        run_pass(learning(groups, definition, str(tmp_path / "fitted")))
    assert "\n" not in str(error.value)


def test_a_failed_pass_reports_its_cause_and_leaves_no_thread(tmp_path):
    """Beam's threads once survived a failure and kept sending data."""
    groups = groups_of(sample(tmp_path / "rows", 1500), ["train", "evaluate"])
    definition = Definition.of(parse_pipeline(SPEC.replace("site:", "nowhere:"), "t"))
    running = set(threading.enumerate())
    for _ in range(2):
        with passes_on(Runner()) as run_pass, pytest.raises(MissingDataError, match="'nowhere'"):
            run_pass(learning(groups, definition, str(tmp_path / "fitted"), threads=2))
    until(lambda: set(threading.enumerate()) <= running)


def test_a_day_without_a_column_is_reported_before_any_work(tmp_path):
    folder = sample(tmp_path / "rows", 1500)
    newest = folder / "split=evaluate" / "dt=2026-02-03" / "part-00000.parquet"
    pq.write_table(pq.read_table(newest).drop_columns(["site"]), newest)
    spec = parse_pipeline(SPEC, "t")
    groups = groups_of(folder, ["train", "evaluate"])
    with pytest.raises(MissingDataError, match=r"site, 2026-02-03: column 'site' is missing"):
        checked(Night.of(spec, date(2026, 2, 3)), Definition.of(spec), groups)


FAILING = """
import logging
import sys
from pathlib import Path
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import Runner
from nightbid.errors import NightbidError
from nightbid.features.fitted import Definition
from nightbid.featurize.groups import groups_of
from nightbid.featurize.passes import learning
from nightbid.featurize.runner import passes_on

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)  # as the command line does
    spec, rows, fitted = sys.argv[1:]
    groups = groups_of(Path(rows), ["train", "evaluate"])
    try:
        with passes_on(Runner(kind="dask", workers=1)) as run_pass:
            run_pass(learning(groups, Definition.of(parse_pipeline(spec, "t")), fitted))
    except NightbidError as error:
        sys.exit(str(error))
"""


def test_a_dask_failure_is_reported_in_one_line(tmp_path):
    """Workers once logged long errors, and an open client complained at exit."""
    (tmp_path / "failing.py").write_text(FAILING)
    spec = SPEC.replace("site:", "nowhere:")
    rows = sample(tmp_path / "rows", 1500)
    program = str(tmp_path / "failing.py")
    done = COMMANDS.run(spec, str(rows), str(tmp_path / "f"), module=program)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("features.nowhere: column 'nowhere' is missing → ")


KILLING = """
import logging
import os
import signal
import sys
import apache_beam as beam
from nightbid.config.pipeline import Runner
from nightbid.errors import StageError
from nightbid.featurize.runner import passes_on

def expand(pipeline):
    pipeline | beam.Create([1]) | beam.Map(lambda _: os.kill(os.getpid(), signal.SIGKILL))

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    try:
        with passes_on(Runner(kind="dask", workers=1)) as run_pass:
            run_pass(expand)
    except StageError as error:
        sys.exit(str(error))
"""


def test_dask_workers_that_are_killed_again_and_again_end_with_one_line(tmp_path):
    (tmp_path / "killing.py").write_text(KILLING)
    done = COMMANDS.run(module=str(tmp_path / "killing.py"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("runner: Dask workers were killed 4 times at one task, often")
