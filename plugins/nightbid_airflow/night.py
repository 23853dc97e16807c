"""Makes the nightly DAG of a pipeline."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, BaseOperator, Context, TaskGroup
from airflow.sdk.exceptions import AirflowFailException
from nightbid.config.load import check_folder, find_pipeline, pipeline_names
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import ConfigError, NightbidError
from nightbid.night.attempts import APPROVE, ARRIVAL
from nightbid.night.stages import NIGHT, upstream

from nightbid_airflow.approval import PromotionApproval
from nightbid_airflow.arrival import ArrivalSensor
from nightbid_airflow.current_code import with_current_code
from nightbid_airflow.notifier import StopNotifier
from nightbid_airflow.operators import ReportOperator, StageOperator
from nightbid_airflow.parsing import is_needed
from nightbid_airflow.request import form
from nightbid_airflow.sensors import CostSensor
from nightbid_airflow.stage_docs import GROUPS, TASKS, doc_of, group_of
from nightbid_airflow.timetable import NightTimetable

WATCH = "watch_cost"
REPORT = "report"
RETRIES = 2


def nightly_dag(spec: PipelineSpec) -> DAG:
    """Make the DAG of a pipeline: one task per stage, one run at a time, catch-up off."""
    with DAG(
        dag_id=_dag_id(spec.pipeline),
        description=spec.description or f"Nightly retraining of {spec.pipeline}",
        doc_md=_document(spec),
        schedule=_schedule(spec),
        start_date=dt.datetime.combine(spec.start_date, dt.time(), dt.UTC),
        catchup=False,
        max_active_runs=1,
        tags=["nightbid", spec.pipeline],
        params=form(spec),
        access_control=_access(spec, Settings()),
        default_args={
            "owner": spec.owner,
            # Retries are for tasks that lose their worker or the API server. A stage that fails
            # by itself is tried twice, see `StageOperator`; finished stages do not run again.
            "retries": RETRIES,
        },
    ) as dag:
        groups = {
            name: TaskGroup(name, prefix_group_id=False, tooltip=tip)
            for name, tip in GROUPS.items()
        }
        tasks: dict[str, BaseOperator] = {
            stage.name: StageOperator(
                task_id=stage.name,
                task_group=groups[group_of(stage)],
                doc_md=doc_of(stage),
                stage=stage.name,
                pipeline=spec.pipeline,
                on_failure_callback=StopNotifier(spec.pipeline, stage.name),
            )
            for stage in NIGHT
        }
        # A teardown runs whatever the outcome of the night, and does not affect that outcome.
        report = ReportOperator(task_id=REPORT, pipeline=spec.pipeline, doc_md=TASKS[REPORT])
        tasks["promote"] >> report.as_teardown()
        CostSensor(
            task_id=WATCH,
            pipeline=spec.pipeline,
            doc_md=TASKS[WATCH],
            on_failure_callback=StopNotifier(spec.pipeline, WATCH),
        )
        if spec.arrival is not None and not spec.sampling.frozen:
            (
                ArrivalSensor(
                    task_id=ARRIVAL,
                    pipeline=spec.pipeline,
                    task_group=groups["data"],
                    doc_md=TASKS[ARRIVAL],
                    on_failure_callback=StopNotifier(spec.pipeline, ARRIVAL),
                )
                >> tasks["sample"]
            )
        for stage in NIGHT:
            for name in upstream(stage):
                if stage.name == "promote" and spec.approval:
                    person = PromotionApproval(
                        task_id=APPROVE,
                        pipeline=spec.pipeline,
                        hours=spec.approval_hours,
                        task_group=groups["serving"],
                        doc_md=TASKS[APPROVE],
                        on_failure_callback=StopNotifier(spec.pipeline, APPROVE),
                    )
                    tasks[name] >> person >> tasks[stage.name]
                else:
                    tasks[name] >> tasks[stage.name]
    return dag


OWN_ROLES = ("Admin", "Op", "User", "Viewer", "Public")
"""Built-in roles of Airflow."""


def _access(spec: PipelineSpec, settings: Settings) -> dict[str, dict[str, set[str]]] | None:
    """Get the permissions of each role on the DAG of the pipeline.

    A role that Airflow does not know would break all DAGs of the file, so only roles of the
    installation are allowed; `nightbid_airflow.roles` creates them.

    Raises:
        ConfigError: A role is not one of the installation's roles.
    """
    known = (*OWN_ROLES, *settings.roles)
    for role in spec.access:
        if role not in known:
            raise ConfigError(
                f"access: no role {role!r}",
                where=f"{spec.pipeline}.yaml",
                hint=f"roles: {', '.join(known)}; NIGHTBID_ROLES lists your own",
            )
    may = {"read": {"can_read"}, "edit": {"can_read", "can_edit"}}
    runs = {"read": {"can_read"}, "edit": {"can_create", "can_read"}}
    return {
        role: {"DAGs": may[permission], "DAG Runs": runs[permission]}
        for role, permission in spec.access.items()
    } or None


def _schedule(spec: PipelineSpec) -> Any:
    """Get the schedule of a pipeline: a timetable, the asset of its logs, or None (manual)."""
    if spec.schedule:
        source = spec.source
        return NightTimetable(
            spec.schedule,
            spec.partition,
            getattr(source, "week_begins", "monday"),
            getattr(source, "time_zone", "UTC"),
        )
    if spec.arrival is not None and spec.arrival.asset:
        return [Asset(spec.arrival.asset)]
    return None


def _document(spec: PipelineSpec) -> str:
    return "\n\n".join(
        [
            spec.description or f"Nightly retraining of `{spec.pipeline}`.",
            f"Pipeline `{spec.pipeline}.yaml`: {counted(len(spec.features), 'feature')},"
            f" {spec.model.architecture} against {spec.baseline.name},"
            f" {counted(spec.window.train_days, spec.partition)} of training.",
            "If a gate stops the night, later tasks do not run and the champion stays. Trigger "
            "with a date to run an earlier night; finished stages are reused.",
            "When a task fails, its last line says why; `docs/oncall.md` has a section for each.",
        ]
    )


@with_current_code
def pipeline_dags(folder: Path) -> dict[str, DAG]:
    """Make a DAG per pipeline YAML in `folder`, by DAG id; a broken YAML affects no other DAG.

    In the process of a task, only the DAG of the task is made.

    If a DAG file has an import error, Airflow marks all of its DAGs as stale, which would freeze
    running nights of healthy pipelines. So a pipeline that cannot be loaded raises nothing; it
    becomes a `broken_dag` with the id of its nightly DAG.

    Raises:
        ConfigError: The folder does not exist.
    """
    check_folder(folder)
    dags: dict[str, DAG] = {}
    for name in pipeline_names(folder):
        if not is_needed(_dag_id(name)):
            continue
        try:
            dag = nightly_dag(find_pipeline(name, folder))
            dag.validate()  # type: ignore[no-untyped-call]
        except Exception as error:  # Any error here would break the other DAGs too.
            fault = str(error) if isinstance(error, NightbidError) else _line(name, error)
            dag = broken_dag(name, fault)
        dags[dag.dag_id] = dag
    return dags


def broken_dag(name: str, fault: str) -> DAG:
    """Make a placeholder DAG for a pipeline whose YAML cannot be loaded.

    The DAG has no schedule, shows the error in its title, description and documentation, and fails
    with the error when it is triggered.

    Args:
        name: Name of the YAML file, without its extension.
        fault: Error message: a line per error, with its place and what to do.
    """
    dag_id = _dag_id(name)
    with DAG(
        dag_id=dag_id,
        dag_display_name=f"{dag_id} (YAML is broken)",
        description=" · ".join(fault.splitlines()),
        doc_md=f"**{name}.yaml cannot be loaded**\n\n```\n{fault}\n```\n\nOther pipelines continue."
        " After you fix the line, the nightly DAG is back within half a minute. `nightbid "
        "pipelines` reports the same error.",
        schedule=None,
        catchup=False,
        tags=["nightbid", "broken"],
    ) as dag:
        BrokenPipelineOperator(task_id="read_yaml", fault=fault)
    return dag


def _dag_id(name: str) -> str:
    """Get the id of the nightly DAG of a YAML file, whose name may hold any characters."""
    return f"nightly_{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}"


def _line(name: str, error: Exception) -> str:
    return f"{name}.yaml: {type(error).__name__}: {' '.join(str(error).split())}"


class BrokenPipelineOperator(BaseOperator):
    """Fails with the error in a pipeline's YAML.

    Args:
        fault: Error message to fail with.
    """

    def __init__(self, *, fault: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault

    def execute(self, context: Context) -> None:
        """Fail, without a retry.

        Raises:
            AirflowFailException: Always.
        """
        raise AirflowFailException(self.fault)
