"""Another platform's logged score as the baseline is evaluated and replayed, never served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from nightbid.config.load import load_pipeline
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.evaluation.rows import EvaluationRows

YAML = """
pipeline: moving
columns: {{price: win_price}}
features: {features}
baseline: {baseline}
"""


def rows(score: np.ndarray) -> EvaluationRows:
    many = len(score)
    return EvaluationRows(
        keys=np.arange(many),
        labels=(np.arange(many) % 10 == 0).astype(float),
        weights=np.ones(many),
        users=np.arange(many) // 3,
        days=np.full(many, 20_000),
        truth=None,
        slices=pa.table({"site": pa.array(np.arange(many) % 4)}),
        scores={"candidate": np.full(many, 0.1), "baseline": score},
    )


def test_rows_without_a_logged_score_are_dropped_and_counted() -> None:
    score = np.full(1000, 0.1)
    score[[3, 500]] = np.nan
    scored = rows(score).scored(0.01, "legacy_score")
    assert (len(scored), scored.unscored) == (998, 2)
    sizes = {
        len(scored.labels),
        len(scored.users),
        len(scored.slices),
        len(scored.scores["candidate"]),
    }
    assert sizes == {998}
    assert 3 not in scored.keys


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "baseline.column legacy_score: no score in 20 of 1,000 evaluate rows"),
        (-2.5, "20 of 1,000 values are not within 0 and 1, the first is -2.5"),
    ],
)
def test_missing_or_invalid_logged_scores_are_rejected(value: float, message: str) -> None:
    score = np.full(1000, 0.1)
    score[:20] = value
    with pytest.raises(CorruptDataError) as caught:
        rows(score).scored(0.01, "legacy_score")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("features", "baseline", "message"),
    [
        ("{site_id: vocabulary}", "{column: win_price}", "which is columns.price"),
        ("{site_id: vocabulary}", "{column: old, architecture: deepfm}", "remove baseline.archit"),
        ("{site_id: vocabulary}", "{colum: old}", "did you mean 'column'"),
        ("{old: {transform: numeric}}", "{column: old}", "disappears once this model serves"),
    ],
)
def test_invalid_baseline_settings_are_rejected(
    tmp_path: Path, features: str, baseline: str, message: str
) -> None:
    path = tmp_path / "moving.yaml"
    path.write_text(YAML.format(features=features, baseline=baseline))
    with pytest.raises(ConfigError, match=message):
        load_pipeline(path)
