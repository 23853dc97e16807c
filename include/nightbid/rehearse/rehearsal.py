"""Runs a rehearsal: both sides, the comparison, the search for causes, and the report."""

from __future__ import annotations

import dataclasses
import datetime as dt
import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from upath import UPath

from nightbid.config.settings import Settings
from nightbid.errors import (
    BudgetExceeded,
    ConfigError,
    NightbidError,
    ServiceError,
    StageError,
)
from nightbid.rehearse import compare
from nightbid.rehearse.bisect import BisectOutcome, Cause, smallest
from nightbid.rehearse.compare import RehearsalComparison
from nightbid.rehearse.contract import CONTRACT, NightAnswer, ProcessAnswer, read_answer
from nightbid.rehearse.environments import Environment, Environments
from nightbid.rehearse.findings import BISECTED, TITLES, FindingKind, verdict_of
from nightbid.rehearse.locks import Lock, PinChange
from nightbid.rehearse.metadata import address_of, migrate_copy
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.rehearse.report import RehearsalReport, report_folder
from nightbid.rehearse.sides import Say, Sides
from nightbid.rehearse.steps import STAGES, STEP_STAGES, copy_records, probe
from nightbid.rehearse.tracked import track
from nightbid.report.rehearsal_page import rehearsal_page
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace


class Rehearsal:
    """Runs a plan. Running the same plan again resumes a killed rehearsal.

    Args:
        plan: Plan to run.
        settings: Settings of the installation.
        say: Callback for lines about the progress.
    """

    def __init__(self, plan: RehearsalPlan, settings: Settings, say: Say = lambda _: None) -> None:
        self.plan = plan
        self._settings = settings
        self._say = say
        cache = settings.cache
        self.folder = cache / "rehearsals" / plan.name
        self._environments = Environments(cache / "environments")
        self._sides = Sides(plan, self.folder, settings)
        self._workspace = Workspace(settings.workspace)
        self._stages = STAGES if plan.latency else STAGES[:-1]
        self._deadline = (
            None if plan.minutes is None else time.monotonic() + plan.minutes * 60
        )  # fmt: skip

    def run(self, *, again: bool = False) -> RehearsalReport:
        """Run both sides, compare them, search for causes and write the report.

        Args:
            again: Whether to start over instead of resuming.

        Raises:
            ConfigError: Another process runs this rehearsal, or the plan has changed.
            BudgetExceeded: The budget was used up before both sides were compared.
            StageError: The present side failed, so there is nothing to compare with.
            ServiceError: The disk or the package index failed while packages were installed.
        """
        start = time.monotonic()
        with self._alone():
            if self._sides.is_outdated:
                self._say("the code of Nightbid changed since this rehearsal began: it starts over")
                again = True
            if again:
                self._forget()
            self._sides.keep_source()
            self._keep_pipeline()
            lock = Lock(self.plan.present)
            present = self._environments.present(lock)
            comparison = RehearsalComparison()
            try:
                candidate = self._candidate(present)
            except StageError as error:
                comparison.add("failure", "installation", str(error), grave=True)
            else:
                before, after = self._nights(present, candidate)
                self._compare(comparison, present, candidate, before, after)
            causes = tuple(self._causes(comparison, present)) if self.plan.bisect else ()
            report = RehearsalReport(
                plan=self.plan,
                changes=tuple(map(str, self.plan.changes)),
                verdict=verdict_of(comparison.findings),
                findings=tuple(sorted(comparison.findings, key=lambda finding: not finding.grave)),
                causes=causes,
                compared=_tables(comparison),
                cost_usd=self._sides.spent,
                seconds=time.monotonic() - start,
                created=dt.datetime.now(dt.UTC),
            )
            self._write(report)
            if note := str(track(report, self._workspace, self._settings)):
                self._say(note)
            if report.finished:
                self._forget()
            return report

    @property
    def report_folder(self) -> UPath:
        """Folder of the report in the workspace."""
        return report_folder(self._workspace, self.plan)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    "another process runs this rehearsal",
                    where=self.plan.name,
                    hint="wait for it, or use another --name",
                ) from error
            yield

    def _keep_pipeline(self) -> None:
        """Copy the YAML, so that an edit during the rehearsal does not affect only one side."""
        source = self._settings.pipelines
        name = f"{self.plan.pipeline}.yaml"
        target = self.folder / "pipelines"
        for relative in (Path(name), Path("suites") / name):
            if (source / relative).exists() and not (target / relative).exists():
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / relative, target / relative)
        path = self.folder / "plan.json"
        loose = {"budget_usd", "minutes", "bisect"}
        if path.exists():
            try:
                old = RehearsalPlan.model_validate_json(path.read_text(encoding="utf-8"))
            except ValueError:
                # From another version of Nightbid, whose partial work was discarded above.
                old = self.plan
            if old.model_dump(exclude=loose) != self.plan.model_dump(exclude=loose):
                raise ConfigError(
                    "it was started with other locks, rows or settings",
                    where=self.plan.name,
                    hint="use another --name",
                )
        path.write_text(self.plan.model_dump_json(indent=1), encoding="utf-8")

    def _forget(self) -> None:
        """Delete the state from which a rerun would resume."""
        for name in ("units", "source", "pipelines"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    # Both sides

    def _candidate(self, present: Environment) -> Environment:
        if not self.plan.changes:
            self._say("the locks are the same: both sides run in the present environment")
            return present
        self._say(f"environment of the candidate: {len(self.plan.changes)} changes")
        return self._environments.make(Lock(self.plan.candidate))

    def _nights(
        self, present: Environment, candidate: Environment
    ) -> tuple[list[ProcessAnswer], list[ProcessAnswer]]:
        before: list[ProcessAnswer] = []
        after: list[ProcessAnswer] = []
        for seed in range(self.plan.seeds):
            # The sides take turns in starting, so that a busier machine does not look slower.
            order = ["present", "candidate"] if seed % 2 == 0 else ["candidate", "present"]
            for side in order:
                self._say(f"seed {seed + 1} of {self.plan.seeds}, {side}")
                environment = present if side == "present" else candidate
                answers = before if side == "present" else after
                answers.append(self._night(side, environment, seed))
        return before, after

    def _night(self, side: str, environment: Environment, seed: int) -> ProcessAnswer:
        try:
            answer = self._sides.night(side, environment, seed, self._stages)
        except StageError as error:
            if side == "present":
                raise
            return ProcessAnswer(contract=CONTRACT, night=NightAnswer(error=str(error)))
        if side == "present" and answer.night is not None:
            wrong = answer.night.error or next(
                (f"{name}: {stage.error}" for name, stage in answer.night.stages.items()
                 if stage.error), ""
            )  # fmt: skip
            if wrong:
                raise StageError(
                    f"the present side fails: {wrong}",
                    where=self.plan.name,
                    hint="fix the pipeline under the present lock first",
                )
        return answer

    def _compare(
        self,
        comparison: RehearsalComparison,
        present: Environment,
        candidate: Environment,
        before: list[ProcessAnswer],
        after: list[ProcessAnswer],
    ) -> None:
        compare.failures(comparison, before[0], after[0])
        compare.settings(comparison, before[0], after[0])
        compare.features(comparison, before[0], after[0])
        compare.training(comparison, before, after, self.plan.margin)
        probes = []
        for side, environment, own, other in (
            ("present", present, before[0], after[0]),
            ("candidate", candidate, after[0], before[0]),
        ):
            self._say(f"models, metrics and old records, {side}")
            folder = self.folder / "units" / f"{side}-probe"
            copy = folder / "records"
            if not (folder / "answer.json").exists():
                self._copy_records(copy)
            steps = probe(folder, before[0], own=own, other=other, records=copy,
                          pipeline=self.plan.pipeline)  # fmt: skip
            try:
                probes.append(self._sides.ask(folder, environment, steps))
            except StageError as error:
                if side == "present":
                    raise
                probes.append(ProcessAnswer(contract=CONTRACT))
                comparison.add("failure", "probe", str(error), grave=True)
        compare.metrics(comparison, *probes)
        compare.models(comparison, probes[0], probes[1], before[0], after[0])
        compare.records(comparison, *probes)
        compare.speed(comparison, before, after)
        compare.warned(comparison, [*before, probes[0]], [*after, probes[1]])
        if any(change.name.startswith(("apache-airflow", "alembic", "sqlalchemy"))
               for change in self.plan.changes):  # fmt: skip
            self._say("Airflow's metadata, migrated on a copy")
            compare.metadata(
                comparison,
                migrate_copy(self._sides, self.folder / "units" / "airflow",
                             address_of(self._settings), present, candidate),
            )  # fmt: skip

    def _copy_records(self, to: Path) -> None:
        """Copy the records for a process, as they were at the first copy of this rehearsal.

        The ledger grows meanwhile, because of this rehearsal's own costs.
        """
        first_copy = self.folder / "units" / "records"
        if not first_copy.exists():
            scratch = first_copy.with_name(".tmp-records")
            copy_records(self._workspace, self.plan.pipeline, scratch)
            if scratch.exists():
                scratch.rename(first_copy)
        shutil.rmtree(to, ignore_errors=True)
        if first_copy.exists():
            shutil.copytree(first_copy, to, symlinks=True)

    # Causes

    def _causes(self, comparison: RehearsalComparison, present: Environment) -> Iterator[Cause]:
        kinds = {finding.kind for finding in comparison.findings}
        if "training" in kinds:
            kinds.discard("predictions")
        for kind in (kind for kind in BISECTED if kind in kinds):
            subjects = {finding.subject for finding in comparison.findings if finding.kind == kind}
            changes = self.plan.changes
            if not changes:
                yield Cause(kind=kind, packages=(), steps=0, finished=True,
                            reason="the locks are the same: no package causes it")  # fmt: skip
                continue
            if len(changes) > 1:
                self._say(f"bisecting {TITLES[kind].lower()} over {len(changes)} packages")
            judge = partial(self._judge, kind=kind, subjects=subjects, present=present)
            packages, steps, reason = smallest(changes, judge)
            yield Cause(
                kind=kind,
                packages=tuple(map(str, packages)),
                steps=steps,
                finished=not reason,
                reason=reason,
            )

    def _judge(
        self,
        part: tuple[PinChange, ...],
        kind: FindingKind,
        subjects: set[str],
        present: Environment,
    ) -> BisectOutcome:
        """Try a mix of both locks, and return whether it shows the same finding."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise BudgetExceeded(
                f"its time of {self.plan.minutes:g} min is over", where=self.plan.name,
                hint="run the same command with more --minutes: it resumes here",
            )  # fmt: skip
        lock = Lock(self.plan.present).with_changes(part)
        self._say(f"  trying {', '.join(map(str, part))}")
        comparison = RehearsalComparison()
        try:
            environment = self._environments.make(lock)
            self._step(comparison, kind, lock, environment, present)
        except (BudgetExceeded, ServiceError):
            raise
        except NightbidError:
            whole = subjects & {"night", "installation"}
            return "reproduced" if kind == "failure" and whole else "unresolved"
        same = [
            finding
            for finding in comparison.findings
            if finding.kind == kind and finding.subject in subjects
        ]
        broken = [finding for finding in comparison.findings if finding.kind == "failure"]
        if same:
            return "reproduced"
        return "unresolved" if broken else "absent"

    def _step(
        self,
        comparison: RehearsalComparison,
        kind: FindingKind,
        lock: Lock,
        environment: Environment,
        present: Environment,
    ) -> None:
        """Run only the stages that show whether a finding occurs."""
        stages = self._stages if kind == "failure" else STEP_STAGES[kind]
        seeds = range(self.plan.seeds if kind == "training" else min(2, self.plan.seeds))
        if kind not in ("training", "predictions"):
            seeds = range(1)
        step = f"step-{lock.digest}-{len(stages)}"
        before = [self._night("present", present, seed) for seed in seeds]
        after = before[:1]
        if stages or kind == "settings":
            after = [self._sides.night(step, environment, seed, stages) for seed in seeds]
            compare.failures(comparison, before[0], after[0])
        if kind == "settings":
            compare.settings(comparison, before[0], after[0])
        elif kind == "features":
            compare.features(comparison, before[0], after[0])
        elif kind in ("training", "predictions"):
            compare.training(comparison, before, after, self.plan.margin)
        elif kind in ("metrics", "records", "champion", "serving"):
            original = self._probe_of_present()
            folder = self.folder / "units" / f"{step}-{kind}-probe"
            copy = folder / "records"
            if kind == "records" and not (folder / "answer.json").exists():
                self._copy_records(copy)
            steps = probe(folder, before[0], own=after[0], other=before[0], records=copy,
                          pipeline=self.plan.pipeline, only=kind)  # fmt: skip
            answer = self._sides.ask(folder, environment, steps)
            back = None
            if kind == "champion":
                # Score the step's own model under the present lock, as after a downgrade.
                own = [request for request in steps if request["name"] == "score_own"]
                own = [
                    {**request, "to": request["to"].replace("score_own", "back")} for request in own
                ]
                name = folder.with_name(f"{folder.name}-back")
                back = self._sides.ask(name, present, own).score_own
            compare.metrics(comparison, original, answer)
            reference = original.model_copy(update={"score_other": back})
            compare.models(comparison, reference, answer, before[0], after[0])
            compare.records(comparison, original, answer)

    def _probe_of_present(self) -> ProcessAnswer:
        return read_answer(self.folder / "units" / "present-probe" / "answer.json")

    def _write(self, report: RehearsalReport) -> None:
        folder = self.report_folder
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "candidate.txt", Lock(self.plan.candidate).text())
        write_atomically(folder / "rehearsal.json", report.model_dump_json(indent=1))
        write_atomically(folder / "rehearsal.html", rehearsal_page(report))


def _tables(comparison: RehearsalComparison) -> dict[str, Any]:
    """Convert the comparison to JSON values; infinite distances become None."""

    def plain(value: Any) -> Any:
        if hasattr(value, "model_dump"):
            value = value.model_dump()
        if isinstance(value, dict):
            return {key: plain(nested) for key, nested in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(nested) for nested in value]
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            return None
        return value

    return {
        field.name: plain(getattr(comparison, field.name))
        for field in dataclasses.fields(comparison)
        if field.name != "findings"
    }
