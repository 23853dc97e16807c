"""Selects where sampling runs in this installation."""

from __future__ import annotations

from nightbid.config.folder_source import FolderSource
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.jobs.job import RemoteStage


def work(spec: PipelineSpec, settings: Settings) -> RemoteStage | None:
    """Return a Dataflow job if the settings name one that can reach the logs; None: run locally."""
    cloud = settings.cloud
    if settings.profile == "local" or cloud is None or cloud.dataflow is None:
        return None
    if not is_in_reach(spec):
        return None
    from nightbid.jobs.dataflow import DataflowService
    from nightbid.sampling.job import SampleJob

    return SampleJob(cloud, DataflowService(cloud, cloud.dataflow))


def is_in_reach(spec: PipelineSpec) -> bool:
    """Whether workers that can only access a bucket can read the logs, unit by unit."""
    source = spec.source
    return (
        isinstance(source, FolderSource)
        and source.folder.startswith("gs://")
        and source.layout == "plain"
        # The secret of keyed ids must not leave this machine.
        and source.user_key is None
        and not spec.sampling.frozen
    )
