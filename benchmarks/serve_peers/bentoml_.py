"""Serve a bundle with BentoML: `bentoml serve bentoml_:Scorer`, with BUNDLE and PROCESSES set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
from nightbid.scorer.rows import read
from nightbid.serving.bundle import Bundle, read_columns

FOLDER = Path(os.environ["BUNDLE"])


@bentoml.service(workers=int(os.environ["PROCESSES"]), traffic={"timeout": 30})
class Scorer:
    def __init__(self) -> None:
        self.bundle = Bundle.load(FOLDER)
        self.columns = read_columns(FOLDER)

    @bentoml.api(route="/score")
    def score(self, context: dict[str, Any], rows: list[dict[str, Any]]) -> list[float]:
        parsed = read({"context": context, "rows": rows}, self.columns)
        return self.bundle.score(parsed.rows, parsed.shared).tolist()
