"""docs/features.md shows every transform, in YAML that loads."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from nightbid.config.features import Feature
from nightbid.config.load import parse_pipeline

PAGE = Path(__file__).parents[3] / "docs" / "features.md"


def test_features_page_shows_every_transform_in_yaml_that_loads():
    block = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    shown = parse_pipeline(f"pipeline: t\n{block}", "docs/features.md").features
    union, *_ = get_args(Feature)
    assert {type(transform) for transform in shown.values()} == set(get_args(union))
