"""Runs a small pipeline up to its bundle."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.night.task import StageOutput
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

PIPELINE = """
pipeline: small
source: {kind: simulator, start: 2026-01-01, rows_per_day: 3000, users: 300, ads: 60}
columns: {key: impression_id, time: time, user: user_id, item: ad_id, position: position}
label: {column: click}
window: {train_days: 2}
features:
  user_id: {min_count: 2}
  interests: {transform: bag, length: 4}
  ad_id: {min_count: 2}
  hour_of_day: {transform: hour, column: time}
  session_depth: {transform: quantile_buckets, buckets: 8}
  seconds_since_last_ad: {transform: numeric, log1p: true, missing_indicator: true}
  category_on_page: {transform: cross, columns: [ad_category, page_category], buckets: 256}
  ad_ctr: {transform: target_rate, columns: [ad_id], strength: 100}
  clicked_ads: {transform: recent, column: ad_id, by: [user_id], vocabulary: ad_id, length: 6}
  user_ad: {transform: count, columns: [user_id, ad_id]}
  position: {transform: identity, size: 16, training_only: true}
model: {architecture: dcn_v2, embedding_dim: 4}
train: {epochs: 1, batch_size: 512, calibration: isotonic}
"""


class SmallNight:
    """Stages of one small night, run once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec: PipelineSpec = parse_pipeline(PIPELINE, "small.yaml")
        self.run = RunRecord.start(Workspace(root / "ws"), self.spec, dt.date(2026, 1, 9))

    def stage(self, name: str) -> StageOutput:
        stage = stage_named(name)
        return run_stage(stage, self.spec, self.run, cache_folder=self.root / "cache")

    def folder(self, name: str) -> Path:
        return self.root / "ws" / self.stage(name).uri

    def raw(self) -> pa.Table:
        path = next((self.folder("sample") / "split=evaluate").rglob("*.parquet"))
        return pq.read_table(path, partitioning=None)
