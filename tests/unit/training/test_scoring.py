"""Evaluate rows are scored in pieces: the scores are the same however files are split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.models import Model, Train
from nightbid.errors import CorruptDataError
from nightbid.evaluation.rows import PIECE, score_rows
from nightbid.models.predict import load_model
from nightbid.schema import KEY, LABEL, TIME, USER, WEIGHT
from nightbid.training.stage import run, run_baseline

from .conftest import make_rows

SAMPLED = [KEY, LABEL, WEIGHT, USER, TIME, "site"]


@pytest.fixture(scope="module")
def day() -> pa.Table:
    """Return a day of rows that are scored in two pieces."""
    table = make_rows(PIECE + 5000, 7)[0]
    count = np.arange(len(table))
    time = pa.array(1_767_484_800_000_000 + count).cast(pa.timestamp("us", "UTC"))
    site = pa.array(["a", "b", None])
    return (
        table.append_column(USER, pa.array(count // 9))
        .append_column(TIME, time)
        .append_column("site", site.take(pa.array(count % 3)))
    )


def short_of_memory(task, gigabytes: float):
    settings = task.spec.evaluate.model_copy(update={"memory_gb": gigabytes})
    return replace(task, spec=task.spec.model_copy(update={"evaluate": settings}))


def cut(table: pa.Table, folder, ends: list[int], group: int) -> None:
    place = folder / "split=evaluate" / "dt=2026-01-04"
    place.mkdir(parents=True)
    for number, (start, end) in enumerate(zip([0, *ends], [*ends, len(table)], strict=True)):
        part = table.slice(start, end - start)
        pq.write_table(part, place / f"part-{number:05d}.parquet", row_group_size=group)


def test_scores_do_not_depend_on_how_files_are_split(featurized, task_of, tmp_path, day):
    model = Model(architecture="deep", embedding_dim=4, parameters={"hidden": [8]})
    trained = task_of(featurized, model, Train(batch_size=500, epochs=1), output="train")
    run(trained)
    baseline = task_of(
        featurized, Model(architecture="logistic_regression"), Train(epochs=1), output="baseline"
    )
    run_baseline(baseline)
    scores = []
    for name, ends, raw_ends in (("one", [], []), ("cut", [10, 10, 99_999], [PIECE, PIECE + 1])):
        cut(day.drop_columns(["site"]), tmp_path / name / "featurize", ends, 40_000)
        cut(day.select(SAMPLED), tmp_path / name / "sample", raw_ends, 70_000)
        inputs = {"sample": tmp_path / name / "sample", "train": trained.output,
                  "train_baseline": baseline.output}  # fmt: skip
        task = task_of(tmp_path / name / "featurize", model, output=f"{name}-out", inputs=inputs)
        scores.append(score_rows(task, ("site",)))
    one, other = scores
    assert one.digest == other.digest
    assert one.slices.equals(other.slices)
    assert one.days.tolist()[-1] == one.days[0] == 20_457
    for name, stage in (("candidate", trained), ("baseline", baseline)):
        whole = load_model(stage.output / "model").predict(day)
        assert (one.scores[name] == whole).all()
        assert (other.scores[name] == whole).all()
    assert (one.as_logged == other.as_logged).all()

    # A row takes about 400 bytes, a user 300 and a byte per replicate: a fifth of the users fits.
    per_user = 300 + task.spec.evaluate.bootstrap
    needed = 400 * len(day) + per_user * len(np.unique(one.users))
    few = score_rows(short_of_memory(task, 0.2 * needed / 1e9), ("site",))
    assert few.share == pytest.approx(0.2)
    assert few.others + len(few) == len(day)
    assert len(few) == pytest.approx(0.2 * len(day), rel=0.05)
    users = np.unique(few.users)
    assert np.isin(one.users, users).sum() == len(few)

    cut(day.slice(0, PIECE), tmp_path / "short", [], 70_000)
    inputs["sample"] = tmp_path / "short"
    task = task_of(tmp_path / "cut" / "featurize", model, output="wrong", inputs=inputs)
    with pytest.raises(CorruptDataError, match="131,072 sampled rows and 136,072 featurized rows"):
        score_rows(task, ())
