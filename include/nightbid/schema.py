"""Names, types and files of rows and model inputs that stages share.

Stages never import each other; they communicate through these definitions and the manifests.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nightbid.config.base import BaseModel, ConfigDict

if TYPE_CHECKING:
    from upath import UPath

KEY = "nb_key"
"""Key of the row: int64, stable hash of the key column, for sampling, sharding and joining."""
LABEL = "nb_label"
"""Label: float32, 0 or 1, or the value with `label.kind: value`."""
GIVEN = "nb_given"
"""Whether the label's condition held: float32, 0 or 1; only with `label.entire_space`."""
WEIGHT = "nb_weight"
"""Weight of the row after negative downsampling: float32 > 0."""
TIME = "nb_time"
"""Time of the impression: timestamp[us, UTC]."""
USER = "nb_user"
"""User: int64, stable hash of the user column, or of the key in rows without a user; the unit of
resampling."""
SEEN = "nb_seen"
"""Share of such rows' positives that were known when the night ran: float32 in (0, 1]; 1 where
labels are final. Only days whose labels are not final have this column."""
TRUTH = "nb_truth"
"""True probability of the label: float64; only with simulated logs."""
REASON = "nb_reason"
"""Reason why a row was quarantined: string."""
TEXT = "nb_text"
"""Unreadable text as it is in the file: string; only in quarantine."""
PLACE = "nb_place_in_batch"
"""Position of a row that is not kept in the batch with which it was read: int64."""
CANDIDATES_TRUTH = "candidates_true"
"""True probabilities of the label for each of `columns.candidates`: list<float64>; only with
simulated logs."""
RESERVED = (KEY, LABEL, GIVEN, SEEN, WEIGHT, TIME, USER, TRUTH, REASON, TEXT, PLACE)


class ModelInput(BaseModel):
    """A column of the featurized rows, and how a model must use it.

    `id`: int32 in [0, size). `float`: float32. `bag`: fixed-size list of `length` int32 ids, plus
    a float32 column `<name>__weight` of the same shape. `sequence`: fixed-size list of `length`
    int32 ids, oldest first, padded with 0. Id 0 always means missing or padding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["id", "float", "bag", "sequence"]
    feature: str
    """Name of the feature in the YAML that the input belongs to."""
    size: int = 0
    """Number of distinct ids, including missing and OOV (id, bag and sequence)."""
    length: int = 0
    """Number of ids per row (bag and sequence)."""
    training_only: bool = False
    """Whether serving replaces it with a constant, so that it does not bias ranking (position)."""
    vocabulary: str | None = None
    """Name of the vocabulary. Inputs with the same one share ids, and so may share embeddings."""


class FeatureSchema(BaseModel):
    """All model inputs in order, stored as `features.json` with the fitted statistics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[ModelInput, ...]

    @classmethod
    def load(cls, folder: Path | UPath) -> FeatureSchema:
        """Read `features.json` of a fitted-features folder."""
        return cls.model_validate_json((folder / "features.json").read_text())

    def save(self, folder: Path) -> None:
        """Write `features.json` into a fitted-features folder."""
        (folder / "features.json").write_text(self.model_dump_json(indent=1))


def split_files(folder: Path, split: str, days: Collection[date] = ()) -> list[Path]:
    """List the Parquet files of a split of a stage's output, in their canonical order.

    Sampled and featurized rows are stored as `split=<name>/dt=YYYY-MM-DD/part-*.parquet`, in the
    same row order, with the reserved columns above.

    Args:
        folder: Folder of the output.
        split: Name of the split, such as train, validate or evaluate.
        days: Days to list; empty: all days.
    """
    paths = sorted((folder / f"split={split}").glob("dt=*/part-*.parquet"))
    partitions = {f"dt={day}" for day in days}
    return [path for path in paths if path.parent.name in partitions] if partitions else paths
