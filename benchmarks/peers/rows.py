"""Run the job with Beam as it is usually written: one dict and one DoFn call per row."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from job import MIN_COUNT, NUMBERS, OWN, ROBUST, STANDARD, TEXTS, TOP_K, main


class Moments(beam.CombineFn):
    def create_accumulator(self):
        return 0, 0.0, 0.0

    def add_input(self, accumulator, value):
        count, total, squares = accumulator
        return count + 1, total + value, squares + value * value

    def merge_accumulators(self, accumulators):
        return tuple(map(sum, zip(*accumulators, strict=True)))

    def extract_output(self, accumulator):
        count, total, squares = accumulator
        mean = total / count
        return [mean, math.sqrt(max(squares / count - mean * mean, 0.0))]


def scaled(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else math.log1p(value)


class Numbers(beam.DoFn):
    def __init__(self, names):
        self._names = names

    def process(self, row):
        for name in self._names:
            value = scaled(row[name])
            if value is not None:
                yield name, value


class Tokens(beam.DoFn):
    def process(self, row):
        for name in TEXTS:
            if row[name]:
                yield (name, row[name]), 1


class Convert(beam.DoFn):
    def __init__(self, learned: str):
        self._path = learned

    def setup(self):
        learned = json.loads(Path(self._path).read_text())
        self._numbers = learned["numbers"]
        self._ids = {
            name: {token: number for number, token in enumerate(learned["tokens"].get(name, []), 2)}
            for name in TEXTS
        }

    def process(self, row):
        converted = {name: row[name] for name in OWN}
        for name in NUMBERS:
            value, (center, spread) = scaled(row[name]), self._numbers[name]
            converted[name] = 0.0 if value is None else (value - center) / spread
        for name in TEXTS:
            converted[name] = self._ids[name].get(row[name], 1) if row[name] else 0
        yield converted


def _pipeline() -> beam.Pipeline:
    options = PipelineOptions([], direct_num_workers=1, direct_running_mode="in_memory")
    return beam.Pipeline(runner=FnApiRunner(), options=options)


def _save(items: list, path: Path) -> None:
    learned: dict[str, dict] = {"numbers": {}, "tokens": {}}
    for kind, name, value in items:
        learned[kind][name] = value
    path.write_text(json.dumps(learned))


def _quartiles(pair):
    name, (_, low, middle, high, _) = pair
    return "numbers", name, [middle, high - low]


def _vocabulary(pair):
    name, counted = pair
    frequent = sorted(counted, key=lambda pair_count: (-pair_count[1], pair_count[0]))[:TOP_K]
    return "tokens", name, [token for token, _ in frequent]


def analyze(files: list[str], work: Path) -> dict[str, float]:
    path = work / "learned.json"
    with _pipeline() as pipeline:
        rows = (
            pipeline | beam.Create(files) | beam.io.ReadAllFromParquet(columns=[*NUMBERS, *TEXTS])
        )
        moments = (
            rows
            | "standard" >> beam.ParDo(Numbers(STANDARD))
            | beam.CombinePerKey(Moments())
            | beam.MapTuple(lambda name, value: ("numbers", name, value))
        )
        quartiles = (
            rows
            | "robust" >> beam.ParDo(Numbers(ROBUST))
            | beam.ApproximateQuantiles.PerKey(5)
            | "quartiles" >> beam.Map(_quartiles)
        )
        tokens = (
            rows
            | beam.ParDo(Tokens())
            | "count" >> beam.CombinePerKey(sum)
            | beam.Filter(lambda pair: pair[1] >= MIN_COUNT)
            | beam.MapTuple(lambda key, count: (key[0], (key[1], count)))
            | beam.GroupByKey()
            | "vocabulary" >> beam.Map(_vocabulary)
        )
        (
            (moments, quartiles, tokens)
            | beam.Flatten()
            | beam.combiners.ToList()
            | beam.Map(_save, path)
        )
    learned = json.loads(path.read_text())
    return {
        "tokens": sum(map(len, learned["tokens"].values())),
        **{f"center {name}": learned["numbers"][name][0] for name in NUMBERS},
    }


def transform(files: list[str], work: Path) -> dict[str, float]:
    output = work / "rows"
    shutil.rmtree(output, ignore_errors=True)
    raw_schema = pq.read_schema(files[0])
    schema = pa.schema(
        [raw_schema.field(name) for name in OWN]
        + [(name, pa.float32()) for name in NUMBERS]
        + [(name, pa.int32()) for name in TEXTS]
    )
    with _pipeline() as pipeline:
        (
            pipeline
            | beam.Create(files)
            | beam.io.ReadAllFromParquet(columns=[*OWN, *NUMBERS, *TEXTS])
            | beam.ParDo(Convert(str(work / "learned.json")))
            | beam.io.WriteToParquet(str(output / "part"), schema, codec="zstd")
        )
    return {"rows": sum(pq.read_metadata(path).num_rows for path in output.iterdir())}


if __name__ == "__main__":
    main(analyze, transform)
