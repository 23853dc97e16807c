"""BentoML and a bundle: `bentoml serve bentoml_:Scorer`, BUNDLE and PROCESSES set."""

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
        asked = read({"context": context, "rows": rows}, self.columns)
        return self.bundle.score(asked.rows, asked.shared).tolist()
