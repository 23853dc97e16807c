"""The pipeline that nights of tests share: two days of few rows, three features and one epoch."""

from __future__ import annotations

from typing import Any

PIPELINE: dict[str, Any] = {
    "pipeline": "small",
    "source": {"kind": "simulator", "rows_per_day": 3000, "users": 500, "ads": 500},
    "columns": {"position": "position"},
    "window": {"train_days": 2},
    "features": {
        "ad_id": {"min_count": 5},
        "device_type": "vocabulary",
        "user_ctr": {"transform": "target_rate", "columns": ["user_id"]},
    },
    "train": {"epochs": 1, "refit": False},
    "load_test": {"requests": 60},
}

WARNINGS_ONLY = {
    "overrides": [
        {
            "gate": gate,
            "check": "*",
            "name": "tests",
            "reason": "so few rows prove nothing: only the mechanics are judged",
            "until": "2099-01-01",
        }
        for gate in ("raw", "features", "model", "serving")
    ]
}
"""A `gates` block with which no limit stops a night."""
