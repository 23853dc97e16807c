"""Documentation of features, generated from their definitions and fitted transforms."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Pages show documentation without importing the transforms.
    from nightbid.features.transforms.transform import Transform

FILE = "documentation.json"


class FeatureDescription(BaseModel):
    """Documentation of one feature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    transform: str
    reads: tuple[str, ...]
    """Columns of the logs that it reads."""
    makes: str
    """What the transform computes, with all settings."""
    inputs: tuple[str, ...]
    """Model inputs, one line each."""
    looks_back: str
    """Which earlier rows the feature uses; empty if none."""
    learned: str
    """Summary of the fitted statistics; empty if there are none, or none yet."""
    training_only: bool


class Documentation(BaseModel):
    """Documentation of all features, in order: `documentation.json` of a fitted-features folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: tuple[FeatureDescription, ...]

    @classmethod
    def load(cls, folder: Path | UPath) -> Documentation:
        """Load it from a fitted-features folder."""
        return cls.model_validate_json((folder / FILE).read_text(encoding="utf-8"))

    def with_oov(self, rates: Mapping[str, float]) -> Documentation:
        """Add the share of the newest rows' values that are out of vocabulary.

        Args:
            rates: Feature → share, 0 to 1.
        """
        notes = {name: f"{rate:.2%} OOV in the newest rows" for name, rate in rates.items()}
        return Documentation(
            features=tuple(
                feature.model_copy(update={"learned": ", ".join(filter(None, parts))})
                for feature in self.features
                for parts in [(feature.learned, notes.get(feature.name))]
            )
        )

    def save(self, folder: Path) -> None:
        """Save it to a fitted-features folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")


def describe(
    name: str, transforms: Mapping[str, Transform[Any]], learned: Collection[str]
) -> FeatureDescription:
    """Document one feature.

    Args:
        name: Name of the feature.
        transforms: Transforms of all features, some of which share a vocabulary.
        learned: Names of the features that have been fitted.
    """
    transform = transforms[name]
    feature = transform.feature
    time = [transform.context.time] if transform.looks_back else []
    return FeatureDescription(
        name=name,
        transform=feature.transform,
        reads=tuple(dict.fromkeys([*feature.sources(name), *time])),
        makes=transform.makes,
        inputs=tuple(_input(model_input, transforms, learned) for model_input in transform.inputs),
        looks_back=transform.looks_back,
        learned=transform.learned if name in learned else "",
        training_only=feature.training_only,
    )


def _input(
    model_input: ModelInput, transforms: Mapping[str, Transform[Any]], learned: Collection[str]
) -> str:
    shape = {
        "float": "float32",
        "id": "int32 id",
        "bag": f"{model_input.length:,} int32 ids with float32 weights",
        "sequence": f"{model_input.length:,} int32 ids",
    }[model_input.kind]
    if model_input.kind == "float":
        return f"{model_input.name}: {shape}"
    teacher = model_input.vocabulary or model_input.feature
    transform = transforms[teacher]
    more = 0 if teacher in learned else transform.most_new_ids
    size = f"{'at most ' if more else ''}{model_input.size + more:,}"
    meaning = "0 is missing"
    if transform.vocabulary is not None:
        last = transform.vocabulary.oov_buckets
        meaning += ", 1 is OOV" if last == 1 else f", 1 to {last:,} are OOV"
    return f"{model_input.name}: {shape} of {size} ({meaning})"
