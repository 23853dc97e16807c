"""Payload of a run for experiment tracking: plain JSON, so that it can be queued on disk."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

import nightbid
from nightbid.night.record import RunRecord
from nightbid.report.comparison import flat
from nightbid.report.figures import words_of
from nightbid.report.run_view import RunView
from nightbid.sampling.frozen import name_of

_NOT_IN_NAMES = re.compile(r"[^\w\-./ ]+")
"""Characters that MLflow does not allow in names; letters, digits and `_-./ ` are allowed."""
_MODELS = ("candidate", "champion", "baseline", "constant", "oracle")
_FROM_MANIFESTS = {
    "sample": ("label_rate",),
    "featurize": ("rows_per_second",),
    "train": ("parameters", "examples_per_second", "epochs", "best_epoch"),
    "export": ("parity_max_difference", "skew_mismatches", "bytes"),
    "load_test": ("requests_per_second_per_core",),
}
"""Stage → its own metrics that are logged."""


EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class MetricPoint(BaseModel):
    """One value of a metric."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float
    step: int = 0


class DataSet(BaseModel):
    """Rows that a run used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str
    """Digest of the sampled rows' files: equal digests mean equal rows."""
    uri: str
    profile: dict[str, Any]
    """Row count and label rate, for users."""


class Payload(BaseModel):
    """One run, ready to be logged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: str
    run_id: str
    started: dt.datetime
    ended: dt.datetime
    failed: bool
    parameters: dict[str, str]
    tags: dict[str, str]
    metrics: tuple[MetricPoint, ...]
    data: DataSet | None = None
    slices: tuple[dict[str, Any], ...] = ()
    artifacts: tuple[str, ...] = ()
    """Addresses of small files, relative to the workspace."""

    @property
    def digest(self) -> str:
        """Digest of the whole payload: a payload with the same digest is not logged again."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]

    @property
    def content(self) -> str:
        """Digest without times: it does not change if a rerun only reuses outputs."""
        metrics = [metric for metric in self.metrics if not metric.name.startswith("seconds.")]
        timeless = self.model_copy(
            update={"started": EPOCH, "ended": EPOCH, "metrics": tuple(metrics)}
        )
        return timeless.digest

    @classmethod
    def of(cls, run: RunRecord) -> Payload:
        """Collect the payload of a run, whether it succeeded or not."""
        view = RunView(run)
        attempts = [record for stage in view.stages for record in stage.attempts]
        ends = [record.started + dt.timedelta(seconds=record.seconds) for record in attempts]
        return cls(
            experiment=run.head.pipeline,
            run_id=run.run_id,
            started=run.head.started,
            ended=max(ends, default=run.head.started),
            failed=view.state == "failed",
            parameters={
                _NOT_IN_NAMES.sub("_", name)[:250]: value for name, value in flat(run.head.spec)
            },
            tags=_tags(view),
            metrics=tuple(_metrics(view)),
            data=_data(view),
            slices=tuple(_slice_rows(view.evaluation)),
            artifacts=tuple(_artifacts(run, view)),
        )


def _tags(view: RunView) -> dict[str, str]:
    head, metrics = view.head, view.evaluation
    export = view.stage("export").manifest
    versions = {
        name: version
        for stage in view.stages
        if stage.manifest
        for name, version in stage.manifest.versions.items()
    }
    ended = view.deciding
    tags = {
        "night": head.date.isoformat(),
        "state": view.state,
        "trigger": head.trigger,
        "overrides": " ".join(head.overrides),
        "ended_by": f"{ended.name}: {ended.summary}" if ended else "",
        "verdict": str(metrics.get("verdict", "")),
        "reference": str(metrics.get("reference", "")),
        "evaluate_rows": str(metrics.get("rows_digest", "")),
        "promotion": view.stage("promote").summary,
        "bundle": view.stage("export").uri if export else "",
        "bundle_digest": export.digest if export else "",
        "code_version": nightbid.__version__,
        "code_digest": view.code_digest,
        **{f"gate.{stage.name}": stage.verdict or "" for stage in view.stages if stage.is_gate},
        **{f"version.{name}": version for name, version in versions.items()},
    }
    return {f"nightbid.{name}": value for name, value in tags.items() if value}


def _metrics(view: RunView) -> Iterator[MetricPoint]:
    metrics = view.evaluation
    words = words_of(metrics)
    for model in _MODELS:
        yield from _points(f"{model}.", metrics.get(model) or {})
    for name, figures in (metrics.get("difference") or {}).items():
        yield from _points(f"difference.{name}.", figures)
    for name, figures in (metrics.get("intervals") or {}).items():
        yield from _points(f"candidate.{name}.", figures)
    yield from _points("", {name: metrics.get(name) for name in ("rows", "positives", "users")})
    for key, names in _FROM_MANIFESTS.items():
        figures = view.stage(key).metrics
        yield from _points(f"{key}.", {name: figures.get(name) for name in names})
    yield from _points("load_test.", view.stage("load_test").metrics.get("latency_ms") or {})
    for model in ("train", "train_baseline"):
        for epoch in view.stage(model).metrics.get("history") or []:
            values = {name: value for name, value in epoch.items() if name != "epoch"}
            yield from _points(f"{model}.", values, step=int(epoch.get("epoch", 0)))
    yield MetricPoint(name="cost.total_usd", value=float(view.total_cost.amount))
    for stage in view.stages:
        if stage.cost:
            yield MetricPoint(name=f"cost.{stage.name}_usd", value=float(stage.cost.amount))
        if stage.record:
            yield MetricPoint(name=f"seconds.{stage.name}", value=stage.record.seconds)
    for entry in metrics.get("slices") or []:
        figures = {name: entry["candidate"].get(name) for name in (words.rank, words.loss)}
        yield from _points(
            f"slice.{safe_name(entry['column'])}.{safe_name(entry['value'])}.", figures
        )


def _points(prefix: str, figures: Mapping[str, Any], step: int = 0) -> Iterator[MetricPoint]:
    for name, value in figures.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield MetricPoint(name=f"{prefix}{safe_name(name)}", value=float(value), step=step)


def safe_name(text: object) -> str:
    """Convert text to a part of a metric's name: a slice's value may contain any character."""
    # A slash or leading dots would create folders.
    return _NOT_IN_NAMES.sub("_", str(text)).replace("/", "_").strip(". ")[:80] or "_"


def _data(view: RunView) -> DataSet | None:
    sample = view.stage("sample").manifest
    if sample is None:
        return None
    return DataSet(
        name=name_of(view.run.workspace, sample.digest) or f"{view.head.pipeline}-{sample.night}",
        digest=sample.digest,
        uri=view.stage("sample").uri,
        profile={"rows": sample.rows.written, "label_rate": sample.metrics.get("label_rate")},
    )


def _slice_rows(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in metrics.get("slices") or []:
        yield {
            "column": entry["column"],
            "value": entry["value"],
            "rows": entry["rows"],
            **{f"candidate.{name}": value for name, value in entry["candidate"].items()},
            **{f"reference.{name}": value for name, value in entry["reference"].items()},
            **{
                f"difference.{name}.{part}": value
                for name, parts in entry["difference"].items()
                for part, value in parts.items()
            },
        }


def _artifacts(run: RunRecord, view: RunView) -> Iterator[str]:
    workspace = run.workspace
    evaluated = view.stage("evaluate")
    candidates = [run.folder / "report.html", run.folder / "run.json"]
    if evaluated.folder is not None:
        candidates.append(evaluated.folder / "evaluation.json")
    for path in candidates:
        if path.exists():
            yield workspace.uri(path)
