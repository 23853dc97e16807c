"""Scores of an older model on the rows that judged a newer night, for a paired comparison.

The scores are stored below `comparisons/<pipeline>/` of the workspace, under the digests of the
older bundle and of the rows, so they are computed only once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from nightbid.counts import counted
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError, NightbidError
from nightbid.evaluation.paired import KeptScores
from nightbid.evaluation.rows import PIECE
from nightbid.evaluation.scores import Floats, Ints
from nightbid.night.manifest import Manifest
from nightbid.night.progress import Progress, silent
from nightbid.night.record import RunRecord
from nightbid.schema import KEY, USER, split_files
from nightbid.storage.files import local_file, replaced
from nightbid.storage.workspace import fetch, read_manifest

SCORE = "score"


def rescored(older: RunRecord, newer: RunRecord) -> KeptScores | None:
    """Read the older model's predictions for the rows of the newer night.

    Args:
        older: Run that exported its candidate.
        newer: Run that was evaluated.

    Returns:
        Rows of the newer evaluation with the older model's scores; None if they are not computed
        yet.

    Raises:
        NightbidError: An output is missing or damaged.
    """
    rows = _output(newer, "evaluate")[1]
    path = _place(older, newer)
    if not path.exists():
        return None
    with local_file(path) as local:
        try:
            table = pq.read_table(local, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptDataError(
                f"cannot be read ({error})", where=str(path), hint="delete it and score again"
            ) from error
    stored = KeptScores.load(fetch(rows))
    if not np.array_equal(table[KEY].to_numpy(), stored.keys):
        raise CorruptDataError(
            "these are scores of other rows", where=str(path), hint="delete it and score again"
        )
    return replace(stored, scores=table[SCORE].to_numpy().astype(np.float64))


def why_not(older: RunRecord, newer: RunRecord) -> str:
    """Return why the older model cannot be scored on the newer night's rows; empty if it can.

    Args:
        older: Run with the model.
        newer: Run with the rows.
    """
    if older.head.spec.get("label") != newer.head.spec.get("label"):
        return "they predict different labels"
    try:
        _output(older, "export")
        for stage in ("sample", "featurize", "evaluate"):
            _output(newer, stage)
    except NightbidError as error:
        return error.what
    return ""


def rescore(older: RunRecord, newer: RunRecord, progress: Progress = silent) -> int:
    """Score the older run's model on the newer night's evaluate rows, and store the scores.

    As for a champion in an evaluation, it uses its own vocabularies and the newer night's history.

    Args:
        older: Run with the model.
        newer: Run with the rows.
        progress: Progress callback.

    Returns:
        The number of rows.

    Raises:
        ConfigError: The runs predict different labels, or a required output is missing.
        NightbidError: An output is damaged.
    """
    if why := why_not(older, newer):
        raise ConfigError(
            f"{older.run_id} cannot be scored on the rows of {newer.run_id}: {why}",
            where="compare",
            hint="compare two runs that still have their outputs",
        )
    # No TensorFlow here: ONNX Runtime scores bundles.
    from nightbid.features.fitted import FittedFeatures
    from nightbid.serving.bundle import Bundle

    sampled = fetch(_output(newer, "sample")[1])
    tonight = FittedFeatures.load(fetch(_output(newer, "featurize")[1]) / "fitted")
    bundle = Bundle.load(fetch(_output(older, "export")[1]), judged=True)
    features = bundle.fitted.with_history(tonight)
    evaluated = KeptScores.load(fetch(_output(newer, "evaluate")[1]))
    keys: list[Ints] = []
    scores: list[Floats] = []
    files = split_files(sampled, "evaluate")
    total = sum(pq.read_metadata(path).num_rows for path in files)
    for done, raw in _pieces(files):
        progress(done / max(total, 1), f"scoring {counted(len(evaluated.keys), 'row')}")
        keys.append(raw[KEY].to_numpy().astype(np.int64))
        scores.append(bundle.predict(features.transform(raw)))
    aligned = _aligned(
        np.concatenate([*keys, np.zeros(0, np.int64)]),
        np.concatenate([*scores, np.zeros(0)]),
        evaluated.keys,
        newer.run_id,
    )
    path = _place(older, newer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as local:
        pq.write_table(
            pa.table({KEY: evaluated.keys, USER: evaluated.users, SCORE: aligned}),
            local, compression="zstd", write_page_checksum=True,
        )  # fmt: skip
    return len(aligned)


def _aligned(keys: Ints, scores: Floats, evaluated: Ints, run_id: str) -> Floats:
    """Select the scores of the evaluated rows, which keep the order of the sampled ones."""
    if len(keys) != len(evaluated):
        chosen = np.isin(keys, evaluated)
        keys, scores = keys[chosen], scores[chosen]
    if not np.array_equal(keys, evaluated):
        raise CorruptDataError(
            f"the sampled rows are not the {len(evaluated):,} that were evaluated",
            where=run_id,
            hint="rerun that night from `sample`",
        )
    return scores


def _pieces(files: list[Path]) -> Iterator[tuple[int, pa.Table]]:
    done = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PIECE):
                yield done, pa.Table.from_batches([batch])
                done += len(batch)


def _place(older: RunRecord, newer: RunRecord) -> UPath:
    bundle = _output(older, "export")[0].digest
    rows: dict[str, Any] = dict(_output(newer, "evaluate")[0].metrics)
    folder = newer.workspace.root / "comparisons" / newer.head.pipeline
    return folder / f"{bundle[:32]}-{rows['rows_digest']}" / "scores.parquet"


def _output(run: RunRecord, stage: str) -> tuple[Manifest, UPath]:
    record = run.stage(stage)
    if record is None or not record.uri:
        raise MissingDataError(f"{run.run_id} has no output of {stage}", where=run.head.pipeline)
    folder = run.workspace.at(record.uri)
    return read_manifest(folder), folder
