"""The YAML reference and the JSON schema match the types."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from nightbid.config.document import json_schema, schema_text
from nightbid.config.reference import reference

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "include" / "pipelines").glob("*.yaml"))


def check(tree: object) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(tree)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_pipeline_satisfies_the_schema(path: Path) -> None:
    class Loader(yaml.SafeLoader):
        """A loader that leaves dates as text, like an editor."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith("timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    check(yaml.load(path.read_text(), Loader))


@pytest.mark.parametrize(
    "change",
    [{"features": {}}, {"features": {"a": "vocab"}}, {"train": {"epochs": 0}}, {"trian": {}}],
)
def test_the_schema_rejects_invalid_pipelines(change: dict) -> None:
    tree = {"pipeline": "ctr", "features": {"a": "vocabulary", "b": {"min_count": 2}}}
    check(tree)
    with pytest.raises(jsonschema.ValidationError):
        check(tree | change)


@pytest.mark.parametrize(
    ("name", "made"), [("yaml.md", reference), ("pipeline.schema.json", schema_text)]
)
def test_generated_documents_are_up_to_date(name: str, made) -> None:
    document = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert document == made(), f"docs/{name} is stale: run `make schema`"
