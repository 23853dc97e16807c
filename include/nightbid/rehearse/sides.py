"""Runs the processes of both sides of a rehearsal, each with a folder from which it can resume.

A process works in its own workspace in the cache. It gets no settings of this installation except
the price book, so it cannot access the champion or the ledger.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from upath import UPath

from nightbid.config.settings import Settings
from nightbid.cost.ledger import Ledger, record_stage_usage, total
from nightbid.cost.meter import ProcessMeter
from nightbid.errors import BudgetExceeded, ConfigError, StageError
from nightbid.night.manifest import Usage
from nightbid.processes import how_it_ended
from nightbid.rehearse.contract import CONTRACT, ProcessAnswer, read_answer
from nightbid.rehearse.environments import Environment, source_folder
from nightbid.rehearse.locks import PROGRAM, Lock
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.sampling.frozen import verified
from nightbid.storage.workspace import Workspace

LEDGER_STAGE = "rehearse"
LOG = logging.getLogger(__name__)
Say = Callable[[str], None]


class Sides:
    """Runs the processes of a rehearsal, meters them and records their cost.

    Args:
        plan: Plan of the rehearsal.
        folder: Folder of the rehearsal in the cache.
        settings: Settings of the installation.
    """

    def __init__(self, plan: RehearsalPlan, folder: Path, settings: Settings) -> None:
        self.plan = plan
        self.folder = folder
        self._settings = settings
        self._workspace = Workspace(settings.workspace)

    @property
    def source(self) -> Path:
        """Folder with a copy of Nightbid for both sides, so that an edit does not affect only one.

        A lock that pins Nightbid uses its own version instead.
        """
        return self.folder / "source"

    @property
    def is_outdated(self) -> bool:
        """Whether an earlier process started this rehearsal with other code of Nightbid."""
        return self.source.exists() and _digest(self.source) != _digest(source_folder())

    def keep_source(self) -> None:
        """Copy the running Nightbid if there is no copy yet."""
        if self.source.exists():
            return
        scratch = self.folder / ".tmp-source"
        shutil.rmtree(scratch, ignore_errors=True)
        # The compiled files come along and stay valid, because the copies keep their times.
        shutil.copytree(source_folder() / PROGRAM, scratch / PROGRAM)
        scratch.rename(self.source)

    def night(
        self, name: str, environment: Environment, seed: int, stages: tuple[str, ...]
    ) -> ProcessAnswer:
        """Run stages of the night with one seed, or read the answer of an earlier process.

        Raises:
            BudgetExceeded: The budget of the rehearsal is used up.
            StageError: The process ended without an answer.
        """
        folder = self.folder / "units" / f"{name}-seed{seed}"
        overrides = [*self.plan.overrides, f"sampling.frozen={self.plan.frozen}"]
        overrides += ["evaluate.keep_scores=true", f"train.seed={self.plan.first_seed + seed}"]
        step = {
            "name": "night",
            "step": "night",
            "pipeline": self.plan.pipeline,
            "overrides": overrides,
            "date": self.plan.date.isoformat(),
            "run_id": f"{self.plan.pipeline}-seed{seed}",
            "stages": list(stages),
        }
        return self.ask(folder, environment, [step], data=True)

    def ask(
        self,
        folder: Path,
        environment: Environment,
        steps: list[dict[str, Any]],
        *,
        data: bool = False,
    ) -> ProcessAnswer:
        """Run steps in a process of an environment, or read the answer of an earlier process.

        Args:
            folder: Folder of the process, which keeps its answer.
            environment: Environment whose Python runs the steps.
            steps: Steps of `nightbid.rehearse.worker`.
            data: Whether the steps need the frozen rows.

        Raises: see `night`.
        """
        answer, request = folder / "answer.json", folder / "request.json"
        text = json.dumps({"contract": CONTRACT, "steps": steps}, indent=1, sort_keys=True)
        if answer.exists() and request.exists() and request.read_text() == text:
            return read_answer(answer)
        answer.unlink(missing_ok=True)
        self.check_budget()
        folder.mkdir(parents=True, exist_ok=True)
        request.write_text(text, encoding="utf-8")
        if data:
            self._place_rows(folder / "workspace")
        worker = self.source / "nightbid" / "rehearse" / "worker.py"
        code = self._run(folder, environment, [str(worker), str(request), str(answer)])
        if not answer.exists():
            raise StageError(
                f"the process {how_it_ended(code, folder / 'log')}",
                where=f"{folder.name} of {self.plan.name}",
                hint=f"see {folder / 'log'}, then run the same command again",
            )
        return read_answer(answer)

    def program(
        self, folder: Path, environment: Environment, arguments: list[str], **variables: str
    ) -> int:
        """Run another program of an environment; return its exit code."""
        self.check_budget()
        folder.mkdir(parents=True, exist_ok=True)
        return self._run(folder, environment, arguments, **variables)

    def _run(
        self, folder: Path, environment: Environment, arguments: list[str], **variables: str
    ) -> int:
        number = self._next_attempt()
        started = dt.datetime.now(dt.UTC)
        meter = ProcessMeter(UPath(self.folder / "usage" / f"{number}.jsonl"))
        state = "failed"
        try:
            with meter:
                code = environment.run(
                    ["-P", *arguments],
                    {**self._variables(folder, environment.lock), **variables},
                    folder / "log",
                )
            state = "failed" if code else "done"
            return code
        finally:
            self._enter(number, meter.usage, started, state)

    def _variables(self, folder: Path, lock: Lock) -> dict[str, str]:
        prefixes = ("NIGHTBID_", "AIRFLOW", "PYTHON", "MLFLOW_")
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(prefixes)
        }
        if self._settings.prices:
            inherited["NIGHTBID_PRICES"] = str(self._settings.prices.resolve())
        if PROGRAM not in lock.pins:
            inherited["PYTHONPATH"] = str(self.source)
        return {
            **inherited,
            "NIGHTBID_WORKSPACE": str(folder / "workspace"),
            "NIGHTBID_PIPELINES": str(self.folder / "pipelines"),
            "NIGHTBID_CACHE": str(folder / "cache"),
            "NIGHTBID_TRACKING": "",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }

    def _place_rows(self, workspace: Path) -> None:
        target = workspace / "datasets" / self.plan.frozen
        if target.exists():
            return
        source = Path(str(verified(self._workspace, self.plan.frozen)))
        scratch = target.with_name(f".tmp-{target.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(source, scratch, copy_function=_link)
        scratch.rename(target)

    # Costs

    def _next_attempt(self) -> int:
        folder = self.folder / "usage"
        folder.mkdir(exist_ok=True)
        numbers = (file.stem for file in folder.glob("*.jsonl"))
        return max((int(number) for number in numbers if number.isdigit()), default=0) + 1

    def _enter(self, number: int, usage: Usage, started: dt.datetime, state: str) -> None:
        record_stage_usage(
            self._workspace,
            pipeline=self.plan.pipeline,
            run_id=self.plan.name,
            stage=LEDGER_STAGE,
            attempt=number,
            usage=usage,
            started=started,
            state=state,
        )

    @property
    def spent(self) -> Decimal:
        """Get the cost of all processes so far, in USD at cloud prices."""
        entries = Ledger(self._workspace).entries(
            pipeline=self.plan.pipeline, run_id=self.plan.name
        )
        return total(entries).amount

    def check_budget(self) -> None:
        """Raise an error before starting a process if the budget is used up.

        Raises:
            BudgetExceeded: The budget is used up.
        """
        budget = self.plan.budget_usd
        if budget is not None and (used := self.spent) >= budget:
            raise BudgetExceeded(
                f"{used:.4f} USD of {budget} USD are spent",
                where=self.plan.name,
                hint="run the same command with a larger --budget: it resumes here",
            )


def scores_file(answer: ProcessAnswer) -> Path:
    """Get the file with the predictions from a side's evaluation.

    Raises:
        ConfigError: The evaluation failed.
    """
    stage = answer.night.stages.get("evaluate") if answer.night else None
    files = sorted(Path(stage.folder).glob("scores/part-*.parquet")) if stage else []
    if not files:
        raise ConfigError("no predictions were kept", where="evaluate", hint="see the failures")
    return files[0]


def _digest(folder: Path) -> str:
    """Compute the digest of all source files in a folder."""
    digest = hashlib.sha256()
    for path in sorted((folder / PROGRAM).rglob("*")):
        if path.is_file() and path.parent.name != "__pycache__":
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
