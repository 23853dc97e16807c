"""Warm start from an earlier model: take its layers only, or all weights with table rows by key.

Vocabularies are learned again each night, so the same ad gets another id. Rows of the table, and of
the optimizer's moments, move to the current id of their key. New keys start from fresh values; keys
that are gone are dropped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.errors import CorruptDataError
from nightbid.features.fitted import FittedFeatures
from nightbid.models.folder import (
    SLOTS,
    Array,
    ModelCard,
    load_arrays,
    load_weights,
    save_arrays,
)
from nightbid.models.layout import Layout
from nightbid.models.network import Network, is_table
from nightbid.schema import ModelInput
from nightbid.training.adam import LazyAdam

FITTED = "fitted"
RowIds = npt.NDArray[np.int64]


def why_cold(old: ModelCard, new: ModelCard) -> str:
    """Return why a model cannot start from another one's weights; empty if it can.

    Args:
        old: Card of the earlier model.
        new: Card of the model to train.
    """
    requested = ("architecture", "embedding_dim", "parameters")
    # Compare as JSON: a tuple in `new` is a list in the card that was read from a file.
    old_card, new_card = (
        card.model_dump(mode="json", include=set(requested)) for card in (old, new)
    )
    for name in requested:
        if old_card[name] != new_card[name]:
            return f"it has a different {name.replace('_', ' ')}, {old_card[name]}"
    if [_shape(field) for field in old.features.inputs] != [
        _shape(field) for field in new.features.inputs
    ]:
        return "its inputs are different"
    return ""


def take_layers(network: Network, optimizer: LazyAdam, model: Path) -> None:
    """Copy an earlier network's layers and their moments into a new one; tables stay fresh.

    Args:
        network: Freshly built network.
        optimizer: Optimizer of the network.
        model: Folder of the earlier model; `why_cold` must be empty for it.
    """
    _take(network, optimizer, model, None)


def take_all(network: Network, optimizer: LazyAdam | None, state: Path, fitted: Path) -> int:
    """Copy an earlier network's weights and moments into a new one, table rows by key.

    Args:
        network: Freshly built network.
        optimizer: Optimizer of the network; None skips the moments.
        state: Output of an earlier training; `why_cold` must be empty for it.
        fitted: Folder of tonight's fitted features.

    Returns:
        Number of table rows that the earlier model knew.
    """
    moves = row_map(FittedFeatures.load(state / FITTED), FittedFeatures.load(fitted))
    _take(network, optimizer, state / "model", moves)
    return int((moves >= 0).sum())


def _take(network: Network, optimizer: LazyAdam | None, model: Path, moves: RowIds | None) -> None:
    old = load_weights(model)
    names = {variable.path: name for name, variable in network.variables.items()}
    if set(old) != set(names.values()):
        raise CorruptDataError(
            f"the weights are not those of a {network.card.architecture} of this version",
            where=str(model),
            hint="set train.mode: full for one night",
        )
    for name, weight in network.variables.items():
        _move(weight, old[name], moves, table=is_table(weight))
    if optimizer is None or not (model / SLOTS).exists():
        return
    saved = load_arrays(model / SLOTS)
    optimizer.resume(int(saved["step"]))
    for at, variable in enumerate(network.model.trainable_weights):
        for slot, values in (("first", optimizer.first), ("second", optimizer.second)):
            moments = saved.get(f"{slot} {names[variable.path]}")
            if moments is not None:
                _move(values[at], moments, moves, table=is_table(variable))


def save_slots(network: Network, optimizer: LazyAdam, folder: Path, *, tables: bool) -> None:
    """Write the optimizer's state next to the weights, for a later night.

    Args:
        network: Trained network.
        optimizer: Optimizer of the network.
        folder: Folder of the model.
        tables: Whether to keep the moments of tables too.
    """
    names = {variable.path: name for name, variable in network.variables.items()}
    arrays: dict[str, Array] = {"step": np.asarray(optimizer.step)}
    for at, variable in enumerate(network.model.trainable_weights):
        if tables or not is_table(variable):
            arrays[f"first {names[variable.path]}"] = optimizer.first[at].numpy()
            arrays[f"second {names[variable.path]}"] = optimizer.second[at].numpy()
    save_arrays(arrays, folder / SLOTS)


def save_keys(fitted: Path, folder: Path) -> None:
    """Save the fitted features without their histories: they map table rows to keys."""
    features = FittedFeatures.load(fitted)
    slim = {name: replace(learned, history=None) for name, learned in features.learned.items()}
    FittedFeatures(features.definition, slim).save(folder / FITTED)


def row_map(old: FittedFeatures, new: FittedFeatures) -> RowIds:
    """Find where each row of the new table was in the old one.

    Returns:
        int64 [rows of the new table]; -1 for rows that the old table lacks.
    """
    before, now = Layout(old.schema), Layout(new.schema)
    known = {(lookup.name, lookup.kind): lookup for lookup in before.lookups}
    moves = np.full(now.table_rows, -1, np.int64)
    for lookup in now.lookups:
        old_lookup = known.get((lookup.name, lookup.kind))
        if old_lookup is None:
            continue
        ids = _ids(lookup, old_lookup, old, new)
        start, old_start = now.rows_of(lookup.name)[0], before.rows_of(old_lookup.name)[0]
        moves[start : start + len(ids)] = np.where(ids >= 0, ids + old_start, -1)
    return moves


def _ids(
    new_input: ModelInput, old_input: ModelInput, old: FittedFeatures, new: FittedFeatures
) -> RowIds:
    """Return the old id of each new id of one input, -1 for none; [new ids]."""
    if new_input.vocabulary and old_input.vocabulary:
        tokens, buckets = _vocabulary(new, new_input.vocabulary)
        old_tokens, old_buckets = _vocabulary(old, old_input.vocabulary)
        # Values outside the vocabulary share buckets by hash: the same if the counts are.
        outside = np.arange(1, buckets + 1) if buckets == old_buckets else np.full(buckets, -1)
        place = pc.fill_null(pc.index_in(tokens, value_set=old_tokens), -1)
        positions = np.asarray(place).astype(np.int64)
        inside = np.where(positions >= 0, positions + 1 + old_buckets, -1)
        return np.concatenate([[0], outside, inside]).astype(np.int64)
    requested = (
        new.definition.features.get(new_input.feature),
        old.definition.features.get(old_input.feature),
    )
    if requested[0] == requested[1] and new_input.size == old_input.size:
        return np.arange(new_input.size, dtype=np.int64)
    return np.full(new_input.size, -1, np.int64)


def _vocabulary(fitted: FittedFeatures, name: str) -> tuple[pa.Array, int]:
    learned = fitted.learned.get(name)
    tokens = learned.tokens if learned is not None and learned.tokens is not None else []
    return pa.array(tokens, pa.string()), int(getattr(fitted.definition.features[name],
                                                      "oov_buckets", 1))  # fmt: skip


def _move(variable: Any, old: Array, moves: RowIds | None, *, table: bool) -> None:
    """Set a variable from an array of an earlier model, row by row if it is a table.

    Args:
        variable: Variable with fresh values.
        old: Array of the earlier model.
        moves: Row map, see `row_map`; None leaves tables fresh.
        table: Whether the variable is an embedding table.
    """
    if not table:
        variable.assign(old)
    elif moves is not None:
        fresh = np.asarray(variable).copy()
        known = moves >= 0
        fresh[known] = old[moves[known]]
        variable.assign(fresh)


def _shape(model_input: ModelInput) -> tuple[str, str, int, bool]:
    return (model_input.name, model_input.kind, model_input.length, model_input.training_only)
