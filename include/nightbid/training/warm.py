"""Warm start: tonight's model begins with what the champion knows, key by key.

Vocabularies are learned again each night, so the same ad has another id: rows of the table, and of
the optimiser's moments, move to where their key is now. A key that the champion did not know
begins fresh, one that is gone is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.features.fitted import FittedFeatures
from nightbid.models.folder import Array, load_arrays, load_card, load_weights, save_arrays
from nightbid.models.layout import Layout
from nightbid.models.network import Network, is_table
from nightbid.schema import ModelInput
from nightbid.training.adam import LazyAdam

SLOTS = "optimizer.npz"
"""Beside the weights of a model whose pipeline warm-starts."""
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Warmth:
    """What was taken over."""

    rows: int
    """Of the table, with the champion's embedding."""
    of: int
    dense: bool
    """Whether the weights of the layers were; only if the inputs are the same ones."""
    slots: bool
    cold: str = ""
    """Why nothing was."""

    def __str__(self) -> str:
        if self.cold:
            return f"cold: {self.cold}"
        return f"warm: {self.rows:,} of {self.of:,} embeddings" + (
            "" if self.dense else ", layers fresh: the inputs have changed"
        )


def warm_up(network: Network, optimizer: LazyAdam, champion: Path, fitted: Path) -> Warmth:
    """Give a fresh network the champion's weights and moments, remapped.

    Args:
        network: freshly built.
        optimizer: of it.
        champion: its bundle.
        fitted: tonight's fitted features.
    """
    card, new = load_card(champion / "model"), network.card
    rows = network.layout.table_rows
    requested = ("architecture", "embedding_dim", "parameters")
    # As JSON: a tuple of tonight's is a list of the file's.
    theirs, mine = (each.model_dump(mode="json", include=set(requested)) for each in (card, new))
    for name in requested:
        if theirs[name] != mine[name]:
            said = f"the champion has another {name.replace('_', ' ')}, {theirs[name]}"
            return Warmth(0, rows, dense=False, slots=False, cold=said)
    moves = row_map(FittedFeatures.load(champion / "fitted"), FittedFeatures.load(fitted))
    same = [_shape(each) for each in card.features.inputs] == [
        _shape(each) for each in new.features.inputs
    ]
    old = load_weights(champion / "model")
    names = {each.path: name for name, each in network.variables.items()}
    for name, each in network.variables.items():
        _move(each, old.get(name), moves, dense=same)
    has_slots = (champion / "model" / SLOTS).exists()
    if has_slots:
        kept = load_arrays(champion / "model" / SLOTS)
        optimizer.resume(int(kept["step"]))
        for at, variable in enumerate(network.model.trainable_weights):
            for slot, values in (("first", optimizer.first), ("second", optimizer.second)):
                found = kept.get(f"{slot} {names[variable.path]}")
                _move(values[at], found, moves, dense=same, table=is_table(variable))
    return Warmth(int((moves >= 0).sum()), rows, dense=same, slots=has_slots)


def save_slots(network: Network, optimizer: LazyAdam, folder: Path) -> None:
    """Write the optimiser's state beside the weights, for the next night's warm start."""
    names = {each.path: name for name, each in network.variables.items()}
    arrays: dict[str, Array] = {"step": np.asarray(optimizer.step)}
    for at, variable in enumerate(network.model.trainable_weights):
        arrays[f"first {names[variable.path]}"] = optimizer.first[at].numpy()
        arrays[f"second {names[variable.path]}"] = optimizer.second[at].numpy()
    save_arrays(arrays, folder / SLOTS)


def row_map(old: FittedFeatures, new: FittedFeatures) -> Rows:
    """Where each row of the new table was in the old one.

    Returns:
        int64 [rows of the new table]; -1 where there was none.
    """
    before, now = Layout(old.schema), Layout(new.schema)
    known = {(each.name, each.kind): each for each in before.lookups}
    moves = np.full(now.table_rows, -1, np.int64)
    for each in now.lookups:
        theirs = known.get((each.name, each.kind))
        if theirs is None:
            continue
        ids = _ids(each, theirs, old, new)
        start, old_start = now.rows_of(each.name)[0], before.rows_of(theirs.name)[0]
        moves[start : start + len(ids)] = np.where(ids >= 0, ids + old_start, -1)
    return moves


def _ids(mine: ModelInput, theirs: ModelInput, old: FittedFeatures, new: FittedFeatures) -> Rows:
    """Old id of each new id of one input; -1 for none."""
    if mine.vocabulary and theirs.vocabulary:
        tokens, buckets = _vocabulary(new, mine.vocabulary)
        old_tokens, old_buckets = _vocabulary(old, theirs.vocabulary)
        # Rows outside the vocabulary share buckets by hash: the same ones if as many.
        outside = np.arange(1, buckets + 1) if buckets == old_buckets else np.full(buckets, -1)
        place = pc.fill_null(pc.index_in(tokens, value_set=old_tokens), -1)
        found = np.asarray(place).astype(np.int64)
        inside = np.where(found >= 0, found + 1 + old_buckets, -1)
        return np.concatenate([[0], outside, inside]).astype(np.int64)
    requested = (
        new.definition.features.get(mine.feature),
        old.definition.features.get(theirs.feature),
    )
    if requested[0] == requested[1] and mine.size == theirs.size:
        return np.arange(mine.size, dtype=np.int64)
    return np.full(mine.size, -1, np.int64)


def _vocabulary(fitted: FittedFeatures, name: str) -> tuple[pa.Array, int]:
    learned = fitted.learned.get(name)
    tokens = learned.tokens if learned is not None and learned.tokens is not None else []
    return pa.array(tokens, pa.string()), int(getattr(fitted.definition.features[name],
                                                      "oov_buckets", 1))  # fmt: skip


def _move(
    variable: Any, old: Array | None, moves: Rows, *, dense: bool, table: bool | None = None
) -> None:
    """Set a variable from the champion's array of the same name, row by row if it is a table."""
    if old is None:
        return
    if is_table(variable) if table is None else table:
        fresh = np.asarray(variable).copy()
        kept = moves >= 0
        fresh[kept] = old[moves[kept]]
        variable.assign(fresh)
    elif dense and tuple(variable.shape) == old.shape:
        variable.assign(old)


def _shape(each: ModelInput) -> tuple[str, str, int, bool]:
    return (each.name, each.kind, each.length, each.training_only)
