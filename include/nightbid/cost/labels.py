"""Labels of cloud resources, by which a bill can be split into runs and stages."""

from __future__ import annotations

import re

PREFIX = "nightbid_"


def labels(*, pipeline: str, run_id: str, stage: str) -> dict[str, str]:
    """Make the labels of the cloud resources of a stage.

    Google allows lower-case letters, digits, `_` and `-`, at most 63 characters.
    """
    values = {"pipeline": pipeline, "run": run_id, "stage": stage}
    return {f"{PREFIX}{name}": label_value(text) for name, text in values.items()}


def label_value(text: str) -> str:
    """Convert a text to a valid label value; the same text always gives the same value."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]
