"""Inputs, key and output location of a stage.

The *key* is the digest of the inputs' digests, the part of the spec that the stage reads, its
source code and the library versions. An output with the same key is reused.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from upath import UPath

from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.errors import CorruptDataError, StageError, WorkspaceError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.incremental import Continuation, continuation
from nightbid.night.manifest import FileEntry, Manifest
from nightbid.night.record import RunRecord
from nightbid.night.reference import pinned_champion, why_no_reference
from nightbid.night.source import code_of, loaded_modules
from nightbid.night.stage import Stage
from nightbid.night.task import StageInput
from nightbid.partitions import STEPS
from nightbid.storage.files import is_local
from nightbid.storage.workspace import Workspace, fetch, inode_of, read_manifest, set_aside

log = logging.getLogger(__name__)

HISTORY_PARTS = ("profile/", "fitted/")
"""Files of earlier nights that gates read."""
LIBRARIES = (
    "apache-beam", "great-expectations", "keras", "lightgbm", "numpy", "onnxruntime", "pyarrow",
    "tensorflow",
)  # fmt: skip
"""Libraries whose versions are part of every key, so that an upgrade recomputes outputs."""


@dataclass(frozen=True)
class Plan:
    """One stage of a run: every process derives the same plan."""

    stage: Stage
    spec: PipelineSpec
    run: RunRecord
    night: Night
    inputs: Mapping[str, StageInput]
    history: tuple[StageInput, ...]
    earlier_champions: Mapping[str, StageInput]
    no_reference: str
    continuation: Continuation | None
    spec_digest: str
    code_digest: str
    versions: Mapping[str, str]
    key: str
    loaded: frozenset[str]
    """Names of the stage's modules that were loaded before the code's digest was made."""

    @classmethod
    def of(cls, stage: Stage, spec: PipelineSpec, run: RunRecord, cache_folder: Path) -> Plan:
        """Look up the inputs and compute the key.

        Raises:
            StageError: An input stage has no finished output.
            WorkspaceError: The output of an input stage is gone.
        """
        loaded = loaded_modules([stage.function])
        workspace = run.workspace
        night = Night.of(spec, run.date)
        inputs = {name: _input_of(run, name) for name in stage.inputs}
        earlier: dict[str, StageInput] = {}
        no_reference = ""
        if stage.wants_champion(spec) and (champion := pinned_champion(run)) is not None:
            no_reference = why_no_reference(run, champion, spec)
            if not no_reference:
                inputs["champion"] = read_output(workspace, champion.bundle_uri)
            if stage.earlier_champions and not no_reference:
                earlier = _earlier_champions(run, champion, spec)
        goes_on: Continuation | None = None
        if stage.continues and spec.train.mode == "incremental":
            state = continuation(run, spec, stage.name)
            goes_on = state.continuation
            if state.uri:
                inputs["state"] = read_output(workspace, state.uri)
        uris = run.history(stage.history_of) if stage.history_of else []
        history = tuple(_sound(workspace, uris))
        spec_digest = digest_of(spec.model_dump(mode="json", include=set(stage.spec_keys)))
        code_digest = source_of(stage)
        versions = library_versions()
        key = digest_of(
            {
                "stage": stage.name,
                "night": night.model_dump(mode="json"),
                "inputs": {name: output.manifest.digest for name, output in inputs.items()},
                "history": [output.manifest.digest for output in history],
                **({"no_reference": no_reference} if no_reference else {}),
                **({"continues": goes_on.model_dump(mode="json")} if goes_on else {}),
                **(
                    {"earlier": {name: output.manifest.digest for name, output in earlier.items()}}
                    if earlier
                    else {}
                ),
                "run": run.run_id if stage.uses_run else "",
                "outside": stage.outside(spec, night, cache_folder),
                "spec": spec_digest,
                "code": code_digest,
                "versions": versions,
                "seed": spec.seed,
            }
        )
        return cls(
            stage, spec, run, night, inputs, history, earlier, no_reference, goes_on,
            spec_digest, code_digest, versions, key, loaded,
        )  # fmt: skip

    @property
    def final(self) -> UPath:
        """Folder of the output, whether or not it exists."""
        return self.run.workspace.stage_folder(self.spec.pipeline, self.stage.name, self.key)

    @property
    def uri(self) -> str:
        """Address of the output in the workspace."""
        return self.run.workspace.uri(self.final)

    def found(self) -> Manifest | None:
        """Manifest of an existing output with this key, from any run; None if there is none."""
        inode = inode_of(self.final)
        if not (self.final / "manifest.json").exists():
            return None
        try:
            manifest = read_output(self.run.workspace, self.uri).manifest
            if is_local(self.final):
                fetch(self.final)
        except CorruptDataError as error:
            if not is_local(self.final):
                raise
            name = set_aside(self.final, inode)
            log.warning(
                "%s: damaged output set aside as %s, made again: %s",
                self.stage.name, name or "nothing", error.what,
            )  # fmt: skip
            return None
        return manifest


def _sound(workspace: Workspace, uris: Iterable[str]) -> Iterator[StageInput]:
    """Yield the earlier nights' outputs that are readable; damaged ones are skipped."""
    for uri in uris:
        try:
            output = read_output(workspace, uri)
            if is_local(output.folder):
                output.part(*HISTORY_PARTS)
        except (CorruptDataError, WorkspaceError) as error:
            log.warning("an earlier night is left out of the history: %s", error)
        else:
            yield output


def _earlier_champions(
    run: RunRecord, champion: Champion, spec: PipelineSpec
) -> dict[str, StageInput]:
    """Open the bundles of recent champions with the same label that still exist."""
    nights = spec.evaluate.ratchet_nights
    if not nights:
        return {}
    since = run.date - nights * STEPS[spec.partition]
    pointer = ChampionPointer(run.workspace, spec.pipeline)
    bundles = {}
    for entry in pointer.earlier(champion, since):
        if why_no_reference(run, entry, spec):
            continue
        try:
            bundle = read_output(run.workspace, entry.bundle_uri)
            if is_local(bundle.folder):
                bundle.path  # noqa: B018 (reading it verifies every file)
        except (CorruptDataError, WorkspaceError) as error:
            log.warning("champion #%d is not compared with: %s", entry.number, error)
        else:
            bundles[str(entry.number)] = bundle
    return bundles


def _input_of(run: RunRecord, name: str) -> StageInput:
    record = run.stage(name)
    if record is None or not record.uri or record.state == "failed":
        raise StageError(
            f"the input stage {name!r} has no finished output",
            where=run.run_id,
            hint=f"run the stage {name!r} first",
        )
    return read_output(run.workspace, record.uri)


def read_output(workspace: Workspace, uri: str) -> StageInput:
    """Open a finished output.

    Raises:
        WorkspaceError: The output is gone.
        CorruptDataError: The manifest is damaged, or belongs to another output.
    """
    folder = workspace.at(uri)
    manifest = read_manifest(folder)
    parts = PurePosixPath(uri).parts
    if len(parts) == 4 and parts[0] == "stages" and (manifest.stage, manifest.key) != parts[2:]:
        raise CorruptDataError(
            f"this folder contains another output: {manifest.stage} with the key"
            f" {manifest.key[:16]}",
            where=uri,
            hint="delete this folder and rerun the night, or restore it from a backup",
        )
    return StageInput(manifest, folder)


def output_digest(files: Iterable[FileEntry]) -> str:
    """Digest of an output: of the paths and bytes of its files, except volatile ones."""
    ordered = sorted(files, key=lambda file: PurePosixPath(file.path))
    return digest_of([[file.path, file.digest] for file in ordered if file.digest])


def digest_of(value: Any) -> str:
    """Digest of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def source_of(stage: Stage) -> str:
    """Digest of the source code that a stage's output depends on."""
    return code_of(filter(None, (stage.function, stage.fingerprint)))


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute outputs."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
