"""Refuses features that read outcomes, which are known only after the impression."""

from __future__ import annotations

from collections.abc import Iterable

from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import CorruptDataError


def refuse_outcomes(spec: PipelineSpec, outcomes: Iterable[str]) -> None:
    """Refuse features that read an outcome; the pipeline itself refuses those of its label.

    Args:
        spec: Pipeline with the features.
        outcomes: Source columns that are outcomes, or hold a simulator's ground truth.

    Raises:
        CorruptDataError: A feature reads one of them.
    """
    known = set(outcomes)
    for name, feature in spec.features.items():
        for column in feature.sources(name):
            if column in known:
                raise CorruptDataError(
                    f"feature {name!r} reads {column!r}, which is known only after the impression",
                    where=f"features.{name}",
                    hint="remove it: it would leak the label (rates of the past have their own"
                    " transform, target_rate)",
                )
