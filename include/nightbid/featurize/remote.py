"""Who featurizes in this installation."""

from __future__ import annotations

from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.remote.jobs import Work


def work(spec: PipelineSpec, settings: Settings) -> Work | None:
    """Have Dataflow do it where the settings name one; None: this machine."""
    cloud = settings.cloud
    if settings.profile == "local" or cloud is None or cloud.dataflow is None:
        return None
    from nightbid.featurize.job import FeaturizeJob
    from nightbid.remote.dataflow import DataflowService

    return FeaturizeJob(cloud, DataflowService(cloud, cloud.dataflow))
