"""Selects where featurization runs in this installation."""

from __future__ import annotations

from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.jobs.job import RemoteStage


def work(spec: PipelineSpec, settings: Settings) -> RemoteStage | None:
    """Return a Dataflow job if the settings name one; None: run locally."""
    cloud = settings.cloud
    if settings.profile == "local" or cloud is None or cloud.dataflow is None:
        return None
    from nightbid.featurize.job import FeaturizeJob
    from nightbid.jobs.dataflow import DataflowService

    return FeaturizeJob(cloud, DataflowService(cloud, cloud.dataflow))
