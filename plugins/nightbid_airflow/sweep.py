"""A sweep as a DAG: the shared stages, then the trials as a mapped group, then the page."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param, task_group
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from nightbid.config.settings import Settings
from nightbid.cost.money import shown
from nightbid.errors import BudgetExceeded, GateStopped
from nightbid.night.progress import LogProgress
from nightbid.night.record import safe_run_id
from nightbid.partitions import partition_of
from nightbid.storage.workspace import Workspace

from nightbid_airflow.current_code import with_current_code
from nightbid_airflow.operators import CHATTY, FINAL

SIDE_BY_SIDE = 2
"""Number of parallel trials. Proposals depend on the trials that have ended, so a larger number is
not always faster."""


def form(pipelines: Sequence[str]) -> dict[str, Param]:
    """Get the fields of the trigger form."""
    return {
        "pipeline": Param(pipelines[0], type="string", enum=[*pipelines],
                          title="Pipeline"),
        "set": Param(
            ["train.learning_rate=log:1e-4..1e-2"],
            type="array",
            items={"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*=.+$"},
            title="What varies",
            description="One setting per line: `model.parameters.cross_layers=1,2,3`,"
            " `train.learning_rate=log:1e-4..1e-2`, `model.embedding_dim=8,16`.",
        ),
        "trials": Param(10, type="integer", minimum=1, maximum=500, title="Trials"),
        "budget_usd": Param(None, type=["null", "number"], exclusiveMinimum=0,
                            title="Budget of all trials, USD"),
        "date": Param(None, type=["null", "string"], format="date", title="Night",
                      description="Newest day of logs. Empty: the newest night that ran."),
        "metric": Param("log_loss", type="string", enum=["log_loss", "auc"], title="Metric",
                        description="Ranks the trials; measured on the validation rows."),
        "name": Param(None, type=["null", "string"], pattern="^[A-Za-z0-9._-]{0,80}$", title="Name",
                      description="Name of an earlier sweep, to resume it. Empty: a new one."),
    }  # fmt: skip


@with_current_code
def sweep_dag(pipelines: Sequence[str]) -> DAG:
    """Make the DAG: one for all pipelines, triggered manually."""
    with DAG(
        dag_id="sweep",
        description="Train many variants on the same features and rank them",
        doc_md="Trains variants of a pipeline's model on one night's features: `begin` samples and"
        " featurizes once, each `trial` trains what Optuna proposes, `conclude` ranks them and"
        " writes the page. A pruned trial shows as skipped. A failed trial does not affect the"
        " others.",
        schedule=None,
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        catchup=False,
        tags=["nightbid", "sweep"],
        params=form(pipelines),
        default_args={"owner": "ads-ml", "retries": 1, "retry_delay": dt.timedelta(seconds=10)},
    ) as dag:
        begin = BeginOperator(task_id="begin")

        @task_group(group_id="trial")
        def trial(number: int) -> None:
            TrialOperator(
                task_id="train",
                number=number,
                max_active_tis_per_dagrun=SIDE_BY_SIDE,
                map_index_template="{{ trial }}",
            )

        trial.expand(number=begin.output) >> ConcludeOperator(
            task_id="conclude", trigger_rule="all_done"
        )
    return dag


class SweepOperator(BaseOperator):
    """Base of the tasks of a sweep: finds the sweep by the DAG run."""

    def name_of(self, context: Context) -> str:
        """Get the name of the sweep."""
        return context["params"]["name"] or safe_run_id(f"sweep-{context['dag_run'].run_id}")

    def open(self, context: Context) -> Any:
        """Open the sweep that task `begin` started."""
        from nightbid.sweep.study import Sweep

        for name in (*CHATTY, "optuna"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return Sweep.load(context["params"]["pipeline"], self.name_of(context), Settings())


class BeginOperator(SweepOperator):
    """Starts or resumes a sweep, and runs the stages that all trials share."""

    ui_color = "#e8f0fe"

    def execute(self, context: Context) -> list[int]:
        """Sample and featurize; the XCom is the numbers of the trials.

        Raises:
            AirflowFailException: The form is invalid, or the data cannot be used.
        """
        from nightbid.sweep.study import Sweep, newest_night
        from nightbid.sweep.trials import forecast, prepare

        params: Mapping[str, Any] = context["params"]
        settings, pipeline = Settings(), params["pipeline"]
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            date = params["date"] and partition_of(params["date"])
            budget = params["budget_usd"]
            sweep = Sweep.start(
                pipeline,
                settings,
                date=date or newest_night(pipeline, settings),
                varied=tuple(params["set"]),
                trials=params["trials"],
                budget_usd=None if budget is None else Decimal(str(budget)),
                metric=params["metric"],
                name=self.name_of(context),
            )
            if (expected := forecast(sweep, settings)) is not None:
                self.log.info("forecast: %s USD, from the nights before", shown(expected))
            prepare(sweep, settings, LogProgress)
        except FINAL as error:
            raise AirflowFailException(str(error)) from None
        self.log.info("%s: %d trials", sweep.head.name, sweep.head.trials)
        return list(range(1, sweep.head.trials + 1))


class TrialOperator(SweepOperator):
    """Trains one trial.

    Args:
        number: Number of the trial, from 1.
    """

    ui_color = "#e6f4ea"
    template_fields = ("number",)

    def __init__(self, *, number: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.number = number

    def execute(self, context: Context) -> dict[str, Any]:
        """Train the proposed variant; the XCom is its settings and metrics.

        Raises:
            AirflowSkipException: The trial was pruned, or the budget is used up.
            AirflowFailException: The trial failed.
        """
        from nightbid.sweep.trials import run_trial

        number = int(self.number)
        context["trial"] = f"trial {number}"  # type: ignore[typeddict-unknown-key]
        sweep = self.open(context)
        try:
            trial = run_trial(sweep, number, Settings(), LogProgress)
        except (BudgetExceeded, GateStopped) as stopped:
            raise AirflowSkipException(str(stopped)) from None
        line = f"trial {number}: {' '.join(trial.overrides)}"
        context["trial"] = line  # type: ignore[typeddict-unknown-key]
        if trial.state == "pruned":
            raise AirflowSkipException(f"{line}: {trial.error}")
        if trial.state == "failed":
            raise AirflowFailException(f"{line}: {trial.error}")
        self.log.info("%s: log loss %.5f, AUC %s", line, trial.log_loss, trial.auc)
        return {"values": list(trial.overrides), "log_loss": trial.log_loss, "auc": trial.auc,
                "cost_usd": float(trial.cost_usd)}  # fmt: skip


class ConcludeOperator(SweepOperator):
    """Ranks the trials, writes the page and logs the command that runs the winner."""

    ui_color = "#f3e8fd"

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the page; the XCom is its address and the winner.

        Raises:
            AirflowFailException: No trial has succeeded.
        """
        from nightbid.sweep.summary import winner_command, write_page
        from nightbid.sweep.track import track_trials

        sweep = self.open(context)
        page = write_page(sweep, Settings())
        self.log.info("%s", page)
        if message := track_trials(sweep, Settings()):
            self.log.info("%s", message)
        ranked = sweep.ranked()
        if not ranked:
            raise AirflowFailException(f"no trial of {sweep.head.name} succeeded: {page}")
        command = winner_command(sweep, ranked[0])
        self.log.info("the winner is trial %d: %s", ranked[0].number, command)
        uri = str(page).removeprefix(str(Workspace(Settings().workspace).root)).lstrip("/")
        return {"uri": uri, "winner": ranked[0].number, "command": command}
