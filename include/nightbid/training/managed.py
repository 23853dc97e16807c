"""One worker of a managed training job: `python -m nightbid.training.managed ADDRESS`.

The service starts this command of the image on every machine, with TF_CONFIG where there are
several. The order lies in the workspace, and so do the featurized rows, which every worker fetches,
the checkpoints, and the output, which the first worker writes: its files, and `result.json` last.
What it says goes to standard output, and what is wrong to standard error: the job's log.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from upath import UPath

from nightbid.config.base import Block
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, NightbidError
from nightbid.night.key import library_versions, source_of
from nightbid.night.progress import LogProgress
from nightbid.night.stages import stage_named
from nightbid.storage.workspace import Workspace, fetch
from nightbid.training.distributed import place_of_environment
from nightbid.training.job import Fit, Job, run_job

RESULT = "result.json"

log = logging.getLogger("nightbid.train")


class TrainingOrder(Fit):
    """What the workers of a managed job are to train; all addresses are of the workspace."""

    stage: str
    """Whose output it is."""
    featurized: str
    """Output of the featurize stage."""
    output: str
    """Folder of this attempt alone."""
    checkpoints: str
    start: str | None = None
    """Earlier output that it begins with."""
    code_digest: str
    """Digest of the stage's source code."""
    versions: dict[str, str]
    """Of the libraries that compute."""


class Result(Block):
    """What the first worker found; written when all its files are there."""

    metrics: dict[str, Any]
    files: tuple[str, ...]


def main(address: str) -> int:
    """Run one worker.

    Args:
        address: of the order, in the workspace of this installation's settings.

    Returns:
        The exit code; the last line of standard error says what was wrong.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    said = logging.StreamHandler(sys.stdout)
    said.addFilter(lambda record: record.levelno < logging.WARNING)
    ours = logging.getLogger("nightbid")
    ours.setLevel(logging.INFO)
    ours.addHandler(said)
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)
    try:
        workspace = Workspace(Settings().workspace)
        job_record = TrainingOrder.model_validate_json(workspace.at(address).read_text())
        check_image(job_record)
        _train(workspace, job_record)
    except NightbidError as error:
        log.error("%s", error)
        return 1
    except Exception as error:
        traceback.print_exc()
        log.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


def check_image(job_record: TrainingOrder) -> None:
    """Refuse to train by other code than was ordered: the output's key names that code.

    Raises:
        ConfigError: as said.
    """
    stage = stage_named(job_record.stage)
    here = library_versions()
    wrong = [f"{n} {here[n]}, not {v}" for n, v in job_record.versions.items() if here[n] != v]
    if source_of(stage) != job_record.code_digest:
        wrong.insert(0, "other code than the one that ordered")
    if wrong:
        raise ConfigError(
            f"the image holds {', '.join(wrong)}",
            where="cloud.training.image",
            hint="build the image again, push it, and name its new tag in the settings",
        )


def _train(workspace: Workspace, job_record: TrainingOrder) -> None:
    place, output = place_of_environment(), workspace.at(job_record.output)
    log.info("worker %s %d of %d: %s", place.role, place.index, place.workers, job_record.output)
    if (output / RESULT).exists():
        log.info("finished already")  # and this worker was started once more
        return
    cache = Settings().cache
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        here = Path(folder) / "output"
        here.mkdir()
        job = Job(
            **{name: getattr(job_record, name) for name in Fit.model_fields},
            featurized=fetch(workspace.at(job_record.featurized)),
            output=here,
            start=fetch(workspace.at(job_record.start)) if job_record.start else None,
        )
        kept = workspace.at(job_record.checkpoints)
        metrics = run_job(job, progress=LogProgress("train"), watch=_told, kept=kept)
        if not place.is_first:
            return
        names = (each.relative_to(here).as_posix() for each in here.rglob("*") if each.is_file())
        result = Result(metrics=metrics, files=tuple(sorted(names)))
        (here / RESULT).write_text(result.model_dump_json(), encoding="utf-8")
        workspace.commit(UPath(here), output, RESULT)
        log.info("written to %s", job_record.output)


def _told(epoch: int, log_loss: float, auc: float | None) -> None:
    quality = f", AUC {auc:.4f}" if auc is not None else ""
    log.info("epoch %d: validation log loss %.4f%s", epoch, log_loss, quality)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
