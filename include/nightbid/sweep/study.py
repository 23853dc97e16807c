"""A sweep on disk: its request and the state of every trial, so that any process can resume it.

``sweeps/<pipeline>/<name>/`` of the workspace contains `sweep.json` (the request), `study.db`
(Optuna's records of the trials) and `sweep.html`. Trial `number` has its own run,
`<name>-t<number>`, and shares the stages that its values do not change.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict

from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.night.record import runs_of
from nightbid.night.sealed import unseal
from nightbid.partitions import Partition
from nightbid.preflight import checked_pipeline
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace
from nightbid.sweep.space import Parameter, ParameterValue, Space, parse_space

Metric = Literal["log_loss", "auc"]
TrialStatus = Literal["done", "pruned", "failed", "running"]
ATTEMPTS = 2
"""Maximum number of starts of a trial: it fails if it kills its process twice (memory)."""
STARTUP = 8
"""Number of random trials before the sampler uses their results."""
STATES: dict[TrialState, TrialStatus] = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class SweepHead(BaseModel):
    """Request of a sweep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    name: str
    date: Partition
    settings: tuple[str, ...]
    """`--set` texts."""
    metric: Metric = "log_loss"
    """Validation metric at the best epoch. Only the winner is evaluated on the evaluate rows."""
    trials: int
    budget_usd: Decimal | None = None
    seed: int = 0
    started: dt.datetime
    spec_digest: str
    """Digest of the pipeline: trials with another one cannot be ranked with these."""


@dataclass(frozen=True)
class Trial:
    """State and results of one trial."""

    number: int
    """Number of the trial, from 1."""
    state: TrialStatus
    run_id: str
    values: Mapping[str, ParameterValue]
    overrides: tuple[str, ...]
    log_loss: float | None = None
    auc: float | None = None
    parameters: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    cost_usd: Decimal = Decimal(0)
    error: str = ""


class Sweep:
    """One sweep: proposes trials, and stores their results."""

    def __init__(self, head: SweepHead, space: Space, folder: Path) -> None:
        self.head, self.space, self.folder = head, space, folder
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    @classmethod
    def start(
        cls,
        pipeline: str,
        settings: Settings,
        *,
        date: dt.date,
        varied: Sequence[str],
        trials: int,
        budget_usd: Decimal | None = None,
        metric: Metric = "log_loss",
        name: str = "",
        seed: int = 0,
    ) -> Sweep:
        """Start a sweep, or resume one with the same request; the number of trials may grow.

        Args:
            pipeline: Name of the pipeline.
            settings: Settings that name the workspace and the pipelines.
            date: Newest day of logs.
            varied: `--set` texts; see `nightbid.sweep.space`.
            trials: Number of trials, including finished ones.
            budget_usd: Maximum cost of all trials at cloud prices, in USD; None means no limit.
            metric: Validation metric that ranks the trials.
            name: Name of the sweep; empty derives it from pipeline, date and request.
            seed: Seed of the proposals.

        Raises:
            ConfigError: Nothing varies, a value is invalid, or another sweep has this name.
        """
        space = parse_space(
            varied, lambda overrides: find_pipeline(pipeline, settings.pipelines, overrides)
        )
        spec = checked_pipeline(pipeline, settings.pipelines, space.fixed, date, settings.cache)
        if spec.label.kind == "value" and metric == "auc":
            raise ConfigError(
                "there is no AUC of values, which this pipeline predicts",
                where="metric",
                hint="leave it out: log_loss means the deviance of the validation rows",
            )
        digest = _digest("\n".join((*sorted(varied), metric, str(seed))))
        head = SweepHead(
            pipeline=pipeline,
            name=name or f"{pipeline}-{date}-{digest[:6]}",
            date=date,
            settings=tuple(varied),
            metric=metric,
            trials=min(trials, space.size) if space.size else trials,
            budget_usd=budget_usd,
            seed=seed,
            started=dt.datetime.now(dt.UTC),
            spec_digest=_spec_digest(spec),
        )
        folder = sweep_folder(settings, pipeline, head.name)
        if (folder / "sweep.json").exists():
            before = _read(folder)
            for key in ("date", "settings", "metric", "seed", "spec_digest"):
                if getattr(before, key) != getattr(head, key):
                    raise ConfigError(
                        f"sweep {head.name!r} exists with another {key.replace('_', ' ')}",
                        where=str(folder),
                        hint="use another --name",
                    )
            head = head.model_copy(update={"started": before.started})
        write_atomically(folder / "sweep.json", head.model_dump_json(indent=1).encode())
        sweep = cls(head, space, folder)
        # Create the tables now: trials that start at the same time would race to do it.
        sweep._study(0)
        return sweep

    @classmethod
    def load(cls, pipeline: str, name: str, settings: Settings) -> Sweep:
        """Open an existing sweep.

        Raises:
            ConfigError: There is no sweep of this name.
        """
        folder = sweep_folder(settings, pipeline, name)
        if not (folder / "sweep.json").exists():
            known = sorted(file.parent.name for file in folder.parent.glob("*/sweep.json"))
            raise ConfigError(
                f"no sweep {name!r} of {pipeline!r}",
                where=settings.workspace,
                hint=f"there are: {', '.join(known) or 'none yet'}",
            )
        head = _read(folder)
        space = parse_space(
            head.settings, lambda overrides: find_pipeline(pipeline, settings.pipelines, overrides)
        )
        return cls(head, space, folder)

    @contextmanager
    def alone(self, action: str) -> Iterator[None]:
        """Lock out other processes of this machine that do the same."""
        with open(self.folder / f".{action}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def run_id(self, number: int) -> str:
        """Return the id of a trial's run."""
        return f"{self.head.name}-t{number:03d}"

    def trials(self) -> list[Trial]:
        """Return all trials that were started, by number."""
        trials = [self._trial(frozen) for frozen in self._study(0).get_trials(deepcopy=False)
                  if "number" in frozen.user_attrs]  # fmt: skip
        return sorted(trials, key=lambda trial: trial.number)

    def ranked(self) -> list[Trial]:
        """Return finished trials, best first."""
        done = [trial for trial in self.trials() if trial.state == "done"]
        sign = -1 if self.head.metric == "auc" else 1
        return sorted(done, key=lambda trial: sign * float(getattr(trial, self.head.metric)))

    def propose(self, number: int) -> tuple[Trial, optuna.Trial | None]:
        """Start trial `number`, or resume it if its process was killed.

        Returns:
            The trial, and its Optuna handle; None if there is nothing left to do.
        """
        with self.alone("propose"):
            study = self._study(number)
            known = {
                frozen.user_attrs.get("number"): frozen
                for frozen in study.get_trials(deepcopy=False)
            }
            earlier = known.get(number)
            if earlier is not None and earlier.state.is_finished():
                return self._trial(earlier), None
            if earlier is None:
                handle = self._ask(study, number)
            else:
                handle = optuna.trial.Trial(study, earlier._trial_id)
            attempts = int(handle.user_attrs.get("attempts", 0)) + 1
            handle.set_user_attr("number", number)
            handle.set_user_attr("attempts", attempts)
            trial = self._trial(self._frozen(study, handle))
            if attempts > ATTEMPTS:
                self.end(handle, "failed", {}, f"its process was killed {ATTEMPTS} times")
                return self._trial(self._frozen(study, handle)), None
            return trial, handle

    def end(
        self, handle: optuna.Trial, state: TrialStatus, figures: Mapping[str, Any], error: str = ""
    ) -> None:
        """Store the result of a trial.

        Args:
            handle: Optuna handle from `propose`.
            state: done, pruned or failed.
            figures: Fields of `Trial`; must include the metric if the state is done.
            error: Reason for failing or pruning.
        """
        for name, value in {**figures, "error": error}.items():
            handle.set_user_attr(name, str(value) if isinstance(value, Decimal) else value)
        value = float(figures[self.head.metric]) if state == "done" else None
        trial_state = next(key for key, name in STATES.items() if name == state)
        handle.study.tell(handle, value, state=trial_state)

    def importances(self) -> dict[str, float]:
        """Return the share of variance that each parameter explains (fANOVA, Hutter 2014)."""
        done = self.ranked()
        if len(done) < 4 or len({getattr(trial, self.head.metric) for trial in done}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.head.seed)
        shares = optuna.importance.get_param_importances(self._study(0), evaluator=evaluator)
        return {name: float(share) for name, share in shares.items()}

    def _ask(self, study: optuna.Study, number: int) -> optuna.Trial:
        distributions = {
            parameter.key: _distribution(parameter) for parameter in self.space.parameters
        }
        if self.space.size is not None:
            # Training is deterministic: repeating the same values would give no information.
            trials = study.get_trials(deepcopy=False)
            draft = optuna.create_study(direction=study.direction, sampler=study.sampler)
            draft.add_trials(trials)
            values = draft.ask(distributions).params
            tried = [frozen.params for frozen in trials]
            if values in tried:
                left = [proposal for proposal in self._all() if proposal not in tried]
                values = random.Random(f"{self.head.seed} {number}").choice(left)  # noqa: S311
            study.enqueue_trial(values)
        return study.ask(distributions)

    def _all(self) -> Iterator[dict[str, ParameterValue]]:
        keys = [parameter.key for parameter in self.space.parameters]
        for values in itertools.product(
            *(parameter.choices for parameter in self.space.parameters)
        ):
            yield dict(zip(keys, values, strict=True))

    @cached_property
    def _storage(self) -> optuna.storages.RDBStorage:
        # Each opening reads all of Optuna's migrations, for a fifth of a second.
        return optuna.storages.RDBStorage(f"sqlite:///{self.folder / 'study.db'}?timeout=60")

    def _study(self, number: int) -> optuna.Study:
        # Each trial gets its own sampler, so that an interrupted sweep repeats its proposals.
        return optuna.create_study(
            storage=self._storage,
            study_name="sweep",
            direction="maximize" if self.head.metric == "auc" else "minimize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(
                seed=self.head.seed * 100_003 + number, n_startup_trials=STARTUP
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_min_trials=3),
        )

    @staticmethod
    def _frozen(study: optuna.Study, handle: optuna.Trial) -> FrozenTrial:
        return next(
            frozen for frozen in study.get_trials(deepcopy=False) if frozen.number == handle.number
        )

    def _trial(self, frozen: FrozenTrial) -> Trial:
        attributes = frozen.user_attrs
        number = int(attributes["number"])
        return Trial(
            number=number,
            state=STATES.get(frozen.state, "running"),
            run_id=self.run_id(number),
            values=frozen.params,
            overrides=self.space.overrides(frozen.params),
            log_loss=attributes.get("log_loss"),
            auc=attributes.get("auc"),
            parameters=attributes.get("parameters"),
            epochs=int(attributes.get("epochs", len(frozen.intermediate_values))),
            seconds=float(attributes.get("seconds", 0.0)),
            cost_usd=Decimal(str(attributes.get("cost_usd", 0))),
            error=str(attributes.get("error", "")),
        )


def newest_night(pipeline: str, settings: Settings) -> dt.date:
    """Return the newest night that ran, which is the default night of a sweep.

    Raises:
        ConfigError: No night ran.
    """
    runs = runs_of(Workspace(settings.workspace), pipeline)
    if not runs:
        raise ConfigError(
            f"no night of {pipeline!r} has run yet, so there is none to sweep",
            where="date",
            hint="name the newest day of logs, YYYY-MM-DD",
        )
    return max(run.date for run in runs)


def sweep_folder(settings: Settings, pipeline: str, name: str) -> Path:
    """Return the folder of a sweep.

    Raises:
        ConfigError: The workspace is not local, but Optuna's database needs a local file.
    """
    workspace = Workspace(settings.workspace)
    if not workspace.is_local:
        raise ConfigError(
            f"a sweep needs a local workspace, not {settings.workspace}",
            where="NIGHTBID_WORKSPACE",
            hint="set it to a folder",
        )
    return Path(str(workspace.root)) / "sweeps" / pipeline / name


def sweep_names(settings: Settings, pipeline: str) -> list[str]:
    """Return the names of a pipeline's sweeps; empty if the workspace is in a bucket."""
    if not Workspace(settings.workspace).is_local:
        return []
    folder = sweep_folder(settings, pipeline, "any").parent
    return sorted(file.parent.name for file in folder.glob("*/sweep.json"))


def _read(folder: Path) -> SweepHead:
    path = folder / "sweep.json"
    hint = "delete this sweep's folder and start the sweep again"
    return unseal(SweepHead, path.read_bytes(), path, hint)


def _spec_digest(spec: PipelineSpec) -> str:
    blocks = {
        "source",
        "columns",
        "label",
        "sampling",
        "window",
        "features",
        "model",
        "train",
        "seed",
    }
    return _digest(spec.model_dump_json(include=blocks))


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    if parameter.choices:
        return optuna.distributions.CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return optuna.distributions.IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log
        )
    return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
