"""Empty bundles for tests of the champion's history: a manifest without files."""

from __future__ import annotations

import datetime as dt

from nightbid.night.manifest import Manifest
from nightbid.night.sealed import seal
from nightbid.storage.workspace import Workspace


def put_bundle(workspace: Workspace, uri: str, digest: str, pipeline: str = "small") -> None:
    """Write the manifest of an exported bundle."""
    manifest = Manifest(
        pipeline=pipeline, run_id="r", stage="export", night="2026-01-08", key=uri.split("/")[-1],
        digest=digest, inputs={}, spec_digest="", code_digest="", versions={}, seed=0,
        created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC),
    )  # fmt: skip
    folder = workspace.at(uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(seal(manifest))
