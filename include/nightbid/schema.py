"""What the stages tell each other about rows and model inputs: names, types, files.

Stages never import each other; this vocabulary and the manifests are where they meet.
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
"""int64, stable hash of the row's key column. Sampling, sharding and joining use it."""
LABEL = "nb_label"
"""float32, 0 or 1."""
GIVEN = "nb_given"
"""float32, 0 or 1: whether the label's condition held; only where every row is kept."""
WEIGHT = "nb_weight"
"""float32 > 0, what the row stands for after negative downsampling."""
TIME = "nb_time"
"""timestamp[us, UTC] of the impression."""
USER = "nb_user"
"""int64, stable hash of the user column: the unit of resampling."""
SEEN = "nb_seen"
"""float32 in (0, 1]: the share of such rows' positives that were known when the night was run; 1
where labels are final. Only rows of days whose labels are not final have it."""
TRUTH = "nb_truth"
"""float64, the true probability of the label where a simulator knows it; else absent."""
REASON = "nb_reason"
"""string, why a row was quarantined."""
TEXT = "nb_text"
"""string, what could not be read, as it stands in the file; only in quarantine."""
PLACE = "nb_place_in_batch"
"""int64, where a row that is not kept stood among those read with it."""
CANDIDATES_TRUTH = "candidates_true"
"""list<float64>, true probabilities of the label for each of `columns.candidates`, where a
simulator knows them."""
RESERVED = (KEY, LABEL, GIVEN, SEEN, WEIGHT, TIME, USER, TRUTH, REASON, TEXT, PLACE)


class ModelInput(BaseModel):
    """One column of the featurized rows, and what a model must do with it.

    `id`: int32 in [0, size). `float`: float32. `bag`: fixed-size list of `length` int32 ids, plus
    a float32 column `<name>__weight` of the same shape. `sequence`: fixed-size list of `length`
    int32 ids, oldest first, padded with 0. Id 0 always means missing or padding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["id", "float", "bag", "sequence"]
    feature: str
    """The feature of the YAML that it comes from."""
    size: int = 0
    """Number of distinct ids, missing and OOV included (id, bag and sequence)."""
    length: int = 0
    """Ids per row (bag and sequence)."""
    training_only: bool = False
    """Fed a constant at serving, so that ranking is unbiased by it (position)."""
    vocabulary: str | None = None
    """Inputs with the same vocabulary name share ids, hence may share embeddings."""


class FeatureSchema(BaseModel):
    """Every model input, in order: `features.json` beside the fitted statistics."""

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
    """Parquet files of one split of a stage's output, in their canonical order.

    Both sampled and featurized rows lie as `split=<name>/dt=YYYY-MM-DD/part-*.parquet`, in the
    same row order, each with the reserved columns above.

    Args:
        folder: The output.
        split: train, validate or evaluate.
        days: Of these days alone; default: of all.
    """
    found = sorted((folder / f"split={split}").glob("dt=*/part-*.parquet"))
    wanted = {f"dt={day}" for day in days}
    return [path for path in found if path.parent.name in wanted] if wanted else found
