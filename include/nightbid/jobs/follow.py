"""Follows a job: its messages, its cost, its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, ServiceError
from nightbid.jobs.job import DeferredJob, JobClient, JobMessage, JobStatus, RemoteStage
from nightbid.jobs.store import cancel
from nightbid.night.progress import Progress
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage, named

log = logging.getLogger(__name__)


SETTLE_POLLS = 60
"""Polls to wait for final metrics (10 minutes at the default interval)."""
LogFunction = Callable[[int, str], None]
"""Callback for messages: takes a level of `logging` and a line."""
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class JobFollower:
    """Polls a job, and reports each message once."""

    def __init__(self, service: JobClient, job_id: str, stage: str) -> None:
        self._service = service
        self._job_id = job_id
        self._stage = stage
        self._since: datetime | None = None
        self._seen: set[tuple[datetime, str, str]] = set()
        self._state = ""

    def look(self, say: LogFunction = log.log) -> tuple[JobStatus, Sequence[JobMessage]]:
        """Poll once, and report new messages.

        Returns:
            Status of the job, and the new messages.
        """
        look = self._service.look(self._job_id)
        if look.said != self._state:
            self._state = look.said
            state = look.said or look.state
            say(logging.INFO, f"{self._stage}: job {self._job_id} is {state}")
        try:
            messages = self._service.messages(self._job_id, self._since)
        except (ConfigError, ServiceError) as error:
            # Missing permission to read the log is no reason to abandon the job.
            say(logging.WARNING, str(error))
            return look, ()
        news = [message for message in messages if message.identity not in self._seen]
        for message in news:
            say(LEVELS[message.level], f"{self._stage}: {message.text}")
        if news:
            self._since = max(message.at for message in news)
            # Keep only the newest messages, since the service does not return older ones again.
            self._seen = {message.identity for message in messages if message.at >= self._since}
        return look, news


def service_of(stage: Stage, spec: PipelineSpec) -> JobClient:
    """Get the service that runs a stage in this installation.

    Raises:
        ConfigError: No service is configured any more.
    """
    work = remote_stage_of(stage, spec)
    if work is None:
        raise ConfigError(
            f"no cloud service is configured for stage {stage.name!r}",
            where="settings: cloud",
            hint="restore the cloud settings that its job was submitted with",
        )
    return work.service


def remote_stage_of(stage: Stage, spec: PipelineSpec) -> RemoteStage | None:
    """Get the remote stage of a stage in this installation; None if the stage runs locally."""
    settings = Settings()
    # The import of training or featurization takes seconds, which a reused stage does not need.
    if not stage.remote or settings.profile == "local":
        return None
    work: RemoteStage | None = named(stage.remote)(spec, settings)
    return work


def poll_seconds() -> float:
    """Get the seconds between two polls of a job from the settings."""
    cloud = Settings().cloud
    return cloud.poll_seconds if cloud else 10.0


def wait(away: DeferredJob, run: RunRecord, progress: Progress) -> None:
    """Wait in this process until a job has ended, and watch its cost meanwhile.

    A keyboard interrupt cancels the job.
    """
    from nightbid.jobs.cost_watch import JobWatch

    job_record = away.job_record
    following = JobFollower(away.service, job_record.job_id, job_record.stage)
    watch = JobWatch(run, PipelineSpec.model_validate(run.head.spec).budget)
    line = ""
    try:
        while True:
            look, news = following.look()
            line = news[-1].text if news else line
            progress(0.5 if look.state == "running" else 0.0, f"{look.said.lower()} {line}".strip())
            watch.poll()
            if look.has_ended:
                return
            time.sleep(poll_seconds())
    except KeyboardInterrupt:
        cancel(run, job_record, away.service)
        raise


def wait_for_final_cost(run: RunRecord) -> None:
    """Wait, up to `SETTLE_POLLS` polls, until the costs of all ended jobs of a run are final."""
    from nightbid.jobs.cost_watch import JobWatch, noted_jobs

    if all(note.settled for note in noted_jobs(run)):
        return
    watch = JobWatch(run, PipelineSpec.model_validate(run.head.spec).budget)
    for _ in range(SETTLE_POLLS):
        if not any(poll.ended for poll in watch.poll().values()):
            return
        time.sleep(poll_seconds())
    log.warning(
        "%s: final metrics of a job did not arrive in time; run `nightbid run` again", run.run_id
    )
