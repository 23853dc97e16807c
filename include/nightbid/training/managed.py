"""One worker of a managed training job: `python -m nightbid.training.managed ADDRESS`.

The service starts this command in the image on every machine, and sets TF_CONFIG if there are
several. The order and the featurized rows are in the workspace; every worker fetches them.
Checkpoints and the output are written there as well: the first worker writes the output's files,
and `result.json` last. Messages go to standard output, errors to standard error: both are part of
the job's log.
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
from nightbid.training.job import Fit, FitJob, run_job

RESULT = "result.json"

log = logging.getLogger("nightbid.train")


class TrainingOrder(Fit):
    """What the workers of a managed job train; all addresses are in the workspace."""

    stage: str
    """Stage that the output belongs to."""
    featurized: str
    """Output folder of the featurize stage."""
    output: str
    """Output folder of this attempt only."""
    checkpoints: str
    start: str | None = None
    """Earlier output to start from; None means from scratch."""
    code_digest: str
    """Digest of the stage's source code."""
    versions: dict[str, str]
    """Versions of the libraries that compute results."""


class TrainingResult(Block):
    """Result of the first worker; written after all its files."""

    metrics: dict[str, Any]
    files: tuple[str, ...]


def main(address: str) -> int:
    """Run one worker.

    Args:
        address: Address of the order, in the workspace that this installation's settings name.

    Returns:
        The exit code; the last line of standard error describes the error.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    output = logging.StreamHandler(sys.stdout)
    output.addFilter(lambda record: record.levelno < logging.WARNING)
    logger = logging.getLogger("nightbid")
    logger.setLevel(logging.INFO)
    logger.addHandler(output)
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
    """Raise if the image has other code than the order asks for: the output's key names that code.

    Raises:
        ConfigError: The source code or a library version differs.
    """
    stage = stage_named(job_record.stage)
    installed = library_versions()
    wrong = [
        f"{n} {installed[n]}, not {v}" for n, v in job_record.versions.items() if installed[n] != v
    ]
    if source_of(stage) != job_record.code_digest:
        wrong.insert(0, "code that differs from the code that submitted the job")
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
        log.info("finished already")  # this worker was restarted
        return
    cache = Settings().cache
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        local = Path(folder) / "output"
        local.mkdir()
        job = FitJob(
            **{name: getattr(job_record, name) for name in Fit.model_fields},
            featurized=fetch(workspace.at(job_record.featurized)),
            output=local,
            start=fetch(workspace.at(job_record.start)) if job_record.start else None,
        )
        checkpoints = workspace.at(job_record.checkpoints)
        metrics = run_job(
            job, progress=LogProgress("train"), watch=_told, checkpoint_folder=checkpoints
        )
        if not place.is_first:
            return
        names = (path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
        result = TrainingResult(metrics=metrics, files=tuple(sorted(names)))
        (local / RESULT).write_text(result.model_dump_json(), encoding="utf-8")
        workspace.commit(UPath(local), output, RESULT)
        log.info("written to %s", job_record.output)


def _told(epoch: int, log_loss: float, auc: float | None) -> None:
    quality = f", AUC {auc:.4f}" if auc is not None else ""
    log.info("epoch %d: validation log loss %.4f%s", epoch, log_loss, quality)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
