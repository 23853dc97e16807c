"""Which bundle a shadow scores with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from upath import UPath

from nightbid.errors import ConfigError, MissingDataError, NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.record import runs_of
from nightbid.partitions import partition_of
from nightbid.scorer.follow import fetch_bundle
from nightbid.serving.bundle import read_card
from nightbid.storage.workspace import Workspace, fetch

PREVIOUS, CANDIDATE = "previous", "candidate"


class ShadowBundleFinder:
    """Finds the bundle that a shadow scores with.

    Args:
        workspace: Workspace with champions and runs.
        pipeline: Name of the pipeline.
        model: `previous`, `candidate`, or the folder of an exported bundle.
    """

    def __init__(self, workspace: Workspace, pipeline: str, model: str) -> None:
        self._workspace, self._pipeline, self._model = workspace, pipeline, model

    def find(self, now: str = "") -> tuple[Champion, Path] | None:
        """Find the bundle to score with.

        Args:
            now: Digest of the bundle that is loaded; empty if none is.

        Returns:
            The bundle as an entry of the champion history, and its folder; None if that bundle is
            already loaded.

        Raises:
            NightbidError: There is no such bundle, or it is damaged.
        """
        if self._model == PREVIOUS:
            pointer = ChampionPointer(self._workspace, self._pipeline)
            before = pointer.before()
            if before is None:
                raise MissingDataError("there is no previous champion", where=self._pipeline)
            return None if before.bundle_digest == now else (
                before, fetch_bundle(self._workspace, before)
            )  # fmt: skip
        uri, run_id = self._candidate() if self._model == CANDIDATE else (self._model, "")
        folder = fetch(_at(self._workspace, uri))
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
        if manifest.digest == now:
            return None
        card = read_card(folder)
        entry = Champion(
            pipeline=self._pipeline, number=0, run_id=run_id, bundle_uri=uri,
            night=partition_of(card.night),
            bundle_digest=manifest.digest, since=datetime.now(UTC), change="promote",
            reason="not promoted: it scores in parallel to the champion",
        )  # fmt: skip
        return entry, folder

    def _candidate(self) -> tuple[str, str]:
        """Return address and run id of the newest export that was never champion."""
        pointer = ChampionPointer(self._workspace, self._pipeline)
        promoted = {entry.bundle_uri for entry in pointer.history()}
        for run in reversed(runs_of(self._workspace, self._pipeline)):
            record = run.stage("export")
            if record and record.state == "done" and record.uri not in promoted:
                return record.uri, run.run_id
        raise MissingDataError(
            "there is no unpromoted candidate",
            where=self._pipeline,
            hint="run a night, or pass the folder of a bundle",
        )


def _at(workspace: Workspace, folder: str) -> UPath:
    """Return a local folder if it exists, else one of the workspace."""
    local = Path(folder)
    return UPath(local.absolute()) if local.exists() else workspace.at(folder)


def check(workspace: Workspace, model: str) -> None:
    """Check the choice of a shadow.

    Raises:
        ConfigError: It is neither a keyword nor the folder of a bundle.
    """
    if model in (PREVIOUS, CANDIDATE):
        return
    try:
        read_card(fetch(_at(workspace, model)))
    except NightbidError as error:
        raise ConfigError(
            f"no bundle at {model!r}: {error.what}",
            where="--shadow",
            hint=f"use {PREVIOUS}, {CANDIDATE} or the folder of an exported bundle",
        ) from error
