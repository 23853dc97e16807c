"""Request of a DAG run: the trigger form, and the night and settings that it stands for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from airflow.sdk import Param
from nightbid.config.explain import suggestion
from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.models.registry import names
from nightbid.night.attempts import ARRIVAL
from nightbid.night.pin import code_now, pin_again, pinned_spec
from nightbid.night.record import LAG, RunRecord, safe_run_id
from nightbid.night.stage import Stage
from nightbid.partitions import STEPS, partition_of
from nightbid.storage.workspace import Workspace

SHORTHAND = {
    "train_days": "window.train_days",
    "train_hours": "window.train_hours",
    "train_weeks": "window.train_weeks",
    "architecture": "model.architecture",
    "budget_usd": "budget.run_usd",
}
"""Field of the form → key of the pipeline that it sets."""


FIELDS = frozenset({"date", "overrides", *SHORTHAND})
"""Fields of the form of every pipeline."""
SETTING = rf"^({'|'.join(PipelineSpec.model_fields)})(\.[A-Za-z0-9_]+)*=.*$"
"""Pattern of a line of *Other settings*, so that the form itself refuses a misspelled block."""


def form(spec: PipelineSpec) -> dict[str, Param]:
    """Get the fields of a pipeline's trigger form, which show the values of the pipeline."""
    unit = spec.partition
    description = {
        "day": "Newest day of logs. Empty: the day before the run, UTC.",
        "hour": "Newest hour of logs, YYYY-MM-DDTHH. Empty: the last complete one.",
        "week": "A day of the newest week of logs. Empty: the last complete week, UTC.",
    }[unit]
    return {
        "date": date_field(spec, "Night", description),
        f"train_{unit}s": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title=f"Training {unit}s",
            description=f"Empty: {spec.window.train_days}, as in the pipeline's YAML.",
        ),
        "architecture": Param(
            None,
            type=["null", "string"],
            pattern=f"^({'|'.join(names())})$",
            title="Model architecture",
            description=f"Empty: {spec.model.architecture}, as in the pipeline's YAML. One of"
            f" {', '.join(names())}.",
        ),
        "budget_usd": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            title="Budget of the run, USD",
            description=f"Empty: {spec.budget.run_usd or 'unlimited'}, as in the pipeline's YAML.",
        ),
        "overrides": Param(
            [],
            type=["null", "array"],
            items={"type": "string", "pattern": SETTING},
            title="Other settings",
            description="One `dotted.key=value` per line, with keys of the pipeline's YAML:"
            " `train.learning_rate=0.002`, `model.parameters.cross_layers=3`. Empty: none.",
        ),
    }


def date_field(spec: PipelineSpec, title: str, description: str) -> Param:
    """Make a form field for a partition of the logs: a date, or an hour for hourly logs."""
    kind: dict[str, Any] = {"format": "date"}
    if spec.partition == "hour":
        kind = {"pattern": r"^\d{4}-\d{2}-\d{2}(T\d{2})?$"}
    return Param(None, type=["null", "string"], title=title, description=description, **kind)


class AirflowRun(Protocol):
    """The attributes that are read from Airflow's own DAG run."""

    run_id: str
    run_after: dt.datetime
    data_interval_end: dt.datetime | None


@dataclass(frozen=True)
class NightRequest:
    """The night of a pipeline that a DAG run requests."""

    pipeline: str
    run_id: str
    date: dt.date
    overrides: tuple[str, ...]
    trigger: str = "airflow"
    """What started the run: `schedule`, `backfill`, or `airflow` for a manual run."""
    unknown: tuple[str, ...] = ()
    """Keys of the run's configuration that are no field of the form, such as misspelled ones."""

    @classmethod
    def of(cls, pipeline: str, run: AirflowRun, params: Mapping[str, Any]) -> NightRequest:
        """Read a DAG run; without a date, its night is the last complete partition before it."""
        short = tuple(
            f"{key}={params[field]}"
            for field, key in SHORTHAND.items()
            if params.get(field) is not None
        )
        kind = str(getattr(run, "run_type", "")).rpartition(".")[2].lower()
        overrides = (*(params.get("overrides") or ()), *short)
        return cls(
            pipeline,
            run.run_id,
            _night(pipeline, overrides, run, params.get("date")),
            overrides,
            {"scheduled": "schedule", "backfill": "backfill"}.get(kind.split("_")[0], "airflow"),
            tuple(sorted(set(params) - FIELDS)),
        )

    def open(
        self, settings: Settings, stage: Stage | None = None, *, is_cleared: bool = False
    ) -> tuple[PipelineSpec, RunRecord]:
        """Start the run, or resume it with the settings that it started with.

        Args:
            settings: Settings of the installation.
            stage: Stage to run; None before the first stage.
            is_cleared: Whether a user has cleared the stage; then the current YAML is used.

        Raises:
            ConfigError: The pipeline or an override is wrong, and the run is recorded as refused;
                or the current YAML contradicts the finished stages.
            StageError: The code has changed since the run started.
        """
        workspace = Workspace(settings.workspace)
        name = safe_run_id(self.run_id)
        record = None
        if (workspace.run_folder(self.pipeline, name) / "run.json").exists():
            record = RunRecord.load(workspace, self.pipeline, name)
        if record is not None and not record.head.spec:
            record = None  # The run was refused before; now it may start.
        if record is not None and not is_cleared:
            return pinned_spec(record, stage), record
        try:
            lag = _accepted_lag(record) if record is not None and stage is not None else ()
            # Imported here because DAG files import this module only for the form.
            from nightbid.preflight import checked_pipeline

            self._check_fields()
            overrides = (*self.overrides, *lag)
            spec = checked_pipeline(
                self.pipeline, settings.pipelines, overrides, self.date, settings.cache
            )
        except ConfigError as error:
            RunRecord.refused(
                workspace,
                self.pipeline,
                self.date,
                str(error),
                run_id=self.run_id,
                overrides=self.overrides,
                trigger=self.trigger,
            )
            raise
        if record is not None and stage is not None:
            record.accept()
            return spec, pin_again(record, spec, stage)
        record = RunRecord.start(
            workspace,
            spec,
            self.date,
            run_id=name,
            overrides=self.overrides,
            trigger=self.trigger,
            code=code_now(),
        )
        return spec, record

    def _check_fields(self) -> None:
        """Raise a ConfigError if the configuration has a key that would be ignored."""
        if not self.unknown:
            return
        name = self.unknown[0]
        close = suggestion(name, sorted(FIELDS))
        raise ConfigError(
            f"the run's configuration has the unknown key {name!r}",
            where=f"nightly_{self.pipeline}",
            hint=close or f"known: {', '.join(sorted(FIELDS))}",
        )


def _night(
    pipeline: str, overrides: tuple[str, ...], run: AirflowRun, requested: str | None
) -> dt.date:
    """Get the partition that is asked for, or the last complete one."""

    def moment() -> dt.datetime:
        return (run.data_interval_end or run.run_after).astimezone(dt.UTC)

    try:
        spec = find_pipeline(pipeline, Settings().pipelines, overrides)
        if requested:
            return spec.partition_at(partition_of(requested))
        return spec.newest_complete(moment())
    except ConfigError:  # reported when the night starts
        return partition_of(requested) if requested else moment().date() - STEPS["day"]


def _accepted_lag(record: RunRecord) -> tuple[str, ...]:
    """Get the lag setting of a run whose newest day did not arrive, see `nightbid.arrival.wait`."""
    waited = record.stage(ARRIVAL)
    is_behind = waited is not None and waited.verdict == "warn"
    return tuple(
        override for override in record.head.overrides if is_behind and override.startswith(LAG)
    )
