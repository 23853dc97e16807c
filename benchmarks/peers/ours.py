"""Run the job with Nightbid's own two passes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
from job import NUMBERS, STANDARD, TEXTS, THREADS, TOP_K, main
from nightbid.config.pipeline import PipelineSpec, Runner
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.featurize.groups import groups_of
from nightbid.featurize.passes import learning, transforming
from nightbid.featurize.runner import passes_on

FEATURES = {
    name: {
        "transform": "numeric",
        "log1p": True,
        "scale": "standard" if name in STANDARD else "robust",
    }
    for name in NUMBERS
} | {name: {"transform": "vocabulary", "top_k": TOP_K, "min_count": 2} for name in TEXTS}
DEFINITION = Definition.of(
    PipelineSpec.model_validate({"pipeline": "bench", "features": FEATURES})
).model_copy(update={"time": "nb_time"})


def _groups(files: list[str]) -> list:
    return groups_of(Path(files[0]).parents[2], ["train"])


def analyze(files: list[str], work: Path) -> dict[str, float]:
    fitted = work / "fitted"
    shutil.rmtree(fitted, ignore_errors=True)
    with passes_on(Runner(workers=THREADS)) as run_pass:
        run_pass(learning(_groups(files), DEFINITION, str(fitted), threads=THREADS))
    learned = FittedFeatures.load(fitted).learned
    return {
        "tokens": sum(len(learned[name].tokens) for name in TEXTS),
        **{f"center {name}": learned[name].numbers[0] for name in NUMBERS},
    }


def transform(files: list[str], work: Path) -> dict[str, float]:
    output = work / "rows"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    with passes_on(Runner(workers=THREADS)) as run_pass:
        run_pass(transforming(_groups(files), str(work / "fitted"), str(output), THREADS))
    return {"rows": sum(pq.read_metadata(path).num_rows for path in output.rglob("*.parquet"))}


if __name__ == "__main__":
    main(analyze, transform)
