"""Checks the valid rest of a faulty pipeline YAML, so that all faults are reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nightbid.config.consistency import faults_of
from nightbid.config.pipeline import PipelineSpec

ROUNDS = 4
"""Maximum number of rounds of removing faulty keys. If a block lacks a required key after a round,
the next round removes the block."""
_GONE = object()
Location = tuple[int | str, ...]


@dataclass(frozen=True)
class PartialPipeline:
    """A pipeline without its faulty keys."""

    spec: PipelineSpec
    removed: frozenset[str]
    """Dotted names of the keys that were removed."""

    @property
    def reads_logs(self) -> bool:
        """Whether the rest of `source` reads the logs with the columns that the YAML means."""
        parts = [key for key in self.removed if key.split(".")[0] == "source"]
        return not parts or ("source" not in parts and self.spec.source.kind == "simulator")

    def faults(self) -> Iterator[str]:
        """Yield the conflicts between the blocks that are left."""
        return (fault for fault in faults_of(self.spec) if self.is_stated(fault))

    def is_stated(self, fault: str) -> bool:
        """Whether a fault is in the YAML itself and does not result from a removed key."""
        return not any(
            key in fault or f"'{key.rpartition('.')[2]}'" in fault for key in self.removed
        )


def rest_of(tree: Any) -> PartialPipeline | None:
    """Remove every key that has a fault; return None if the rest is not a valid pipeline.

    Args:
        tree: Content of the YAML, with overrides applied.
    """
    removed: set[str] = set()
    for _ in range(ROUNDS):
        try:
            spec = PipelineSpec.model_validate(tree, context={"alone": True})
        except ValidationError as fault:
            places = [_place(tree, error) for error in fault.errors()]
            if not all(places):
                return None
            removed |= {".".join(map(str, place)) for place in places}
            tree = _without(tree, set(places))
        else:
            return PartialPipeline(spec, frozenset(removed))
    return None


def _place(tree: Any, fault: ErrorDetails) -> Location:
    """Locate a fault in the tree, without the tags of unions that pydantic adds to the location."""
    node, place = tree, []
    for part in fault["loc"]:
        try:
            node = node[part]
        except (LookupError, TypeError):
            continue
        place.append(part)
    return tuple(place)


def _without(node: Any, places: set[Location], location: Location = ()) -> Any:
    if location in places:
        return _GONE
    if isinstance(node, dict):
        entries = {key: _without(value, places, (*location, key)) for key, value in node.items()}
        return {key: value for key, value in entries.items() if value is not _GONE}
    if isinstance(node, list):
        elements = [_without(value, places, (*location, at)) for at, value in enumerate(node)]
        return [value for value in elements if value is not _GONE]
    return node
