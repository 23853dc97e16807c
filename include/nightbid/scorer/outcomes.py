"""Calibration of champion and shadow: logged scores joined with rows whose labels are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.dataset as ds

from nightbid.errors import ConfigError, CorruptDataError, MissingDataError

LEAST = 1e-7
"""Distance from 0 and 1 that probabilities are clipped to for the log loss."""


def calibration(log: Path, rows: Path, label: str) -> list[dict[str, Any]]:
    """Compare the probabilities of champion and shadow with the outcomes.

    Args:
        log: File that `nightbid serve --shadow-log` wrote with `--shadow-key`.
        rows: Parquet file, or folder of Parquet files, with the key's columns and the label.
        label: Name of the label column; a value above 0 is a positive outcome.

    Returns:
        One entry per pair of champion and shadow: `rows` with an outcome, `without_outcome`, the
        `observed` rate, and for each model `mean`, `ratio` (mean over observed; None if the
        observed rate is 0) and `log_loss`.

    Raises:
        ConfigError: The log has no keys, or several sets of key columns.
        CorruptDataError: The log or the rows cannot be read.
        MissingDataError: The rows lack a column, or no row of the log has an outcome.
    """
    pairs, key = _scores(log)
    outcomes = _outcomes(rows, key, label)
    entries = []
    for (champion, shadow), scored in sorted(pairs.items()):
        joined = scored.join(outcomes, keys=key, join_type="inner")
        if not len(joined):
            continue
        happened = joined["label"].to_numpy()
        observed = float(happened.mean())
        entries.append(
            {
                "champion": champion, "shadow": shadow, "rows": len(joined),
                "without_outcome": len(scored) - len(joined), "observed": observed,
                "of_champion": _judged(joined["champion"].to_numpy(), happened),
                "of_shadow": _judged(joined["shadow"].to_numpy(), happened),
            }
        )  # fmt: skip
    if not entries:
        raise MissingDataError(
            f"none of the scored rows has an outcome in {rows}",
            where=str(log),
            hint=f"pass the rows of the same days; they are joined by {', '.join(key)}",
        )
    return entries


def _judged(
    probability: npt.NDArray[np.float64], happened: npt.NDArray[np.float64]
) -> dict[str, float | None]:
    clipped = np.clip(probability, LEAST, 1 - LEAST)
    loss = -np.mean(happened * np.log(clipped) + (1 - happened) * np.log1p(-clipped))
    observed = happened.mean()
    return {
        "mean": float(probability.mean()),
        "ratio": float(probability.mean() / observed) if observed > 0 else None,
        "log_loss": float(loss),
    }


def _scores(log: Path) -> tuple[dict[tuple[int, str], pa.Table], list[str]]:
    """Read scores per pair of champion and shadow, the last per key, and the key's columns."""
    parts: dict[tuple[int, str], list[pa.Table]] = {}
    keys: set[tuple[str, ...]] = set()
    try:
        lines = log.read_bytes().splitlines()
    except OSError as error:
        raise MissingDataError(
            f"cannot be read ({error.strerror})",
            where=str(log),
            hint="pass the file that the scorer's --shadow-log named",
        ) from error
    for number, line in enumerate(lines, 1):
        try:
            record = orjson.loads(line)
            if "keys" not in record:
                continue
            keys.add(tuple(record["keys"]))
            columns = {
                name: [str(value) for value in values] for name, values in record["keys"].items()
            }
            columns.update({who: record["probabilities"][who] for who in ("champion", "shadow")})
            parts.setdefault((record["champion"], record["shadow"]), []).append(pa.table(columns))
        except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            if number == len(lines):
                continue  # incomplete: the scorer is still writing it
            raise CorruptDataError(
                f"line {number} is not a line of a shadow log",
                where=str(log),
                hint="remove the line",
            ) from error
    if len(keys) != 1:
        fault = "no keys" if not keys else f"keys of {len(keys)} kinds"
        raise ConfigError(
            f"the log has {fault}",
            where=str(log),
            hint="serve with --shadow-log FILE --shadow-key COLUMN, and a new file for another key",
        )
    key = list(keys.pop())
    return {pair: _last(pa.concat_tables(tables), key) for pair, tables in parts.items()}, key


def _outcomes(rows: Path, key: list[str], label: str) -> pa.Table:
    try:
        data = ds.dataset(rows, format="parquet")
        if missing := [name for name in (*key, label) if name not in data.schema.names]:
            raise MissingDataError(
                f"column {missing[0]!r} is missing",
                where=str(rows),
                hint=f"the rows have {', '.join(data.schema.names[:12])}",
            )
        table = data.to_table([*key, label], filter=ds.field(label).is_valid())
        positive = table[label].cast(pa.float64()).to_numpy() > 0
    except (OSError, pa.ArrowException) as error:
        raise CorruptDataError(
            f"not Parquet with a label of numbers: {str(error).splitlines()[0]}",
            where=str(rows),
            hint="pass a Parquet file, or a folder of them",
        ) from error
    columns = {name: table[name].cast(pa.string()) for name in key}
    return _last(pa.table({**columns, "label": positive.astype(np.float64)}), key)


def _last(table: pa.Table, key: list[str]) -> pa.Table:
    """Keep the last row of each key."""
    places = table.select(key).append_column("at", pa.array(np.arange(len(table))))
    last = places.group_by(key).aggregate([("at", "max")])["at_max"]
    return table.take(last)
