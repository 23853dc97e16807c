"""Comparison of runs: metrics, paired differences, changed settings and costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightbid.errors import ConfigError, NightbidError
from nightbid.night.record import RunRecord
from nightbid.report.run_view import RunView
from nightbid.storage.workspace import fetch

if TYPE_CHECKING:
    from nightbid.evaluation.bootstrap import Difference

REPLICATES = 200


@dataclass(frozen=True)
class RunPair:
    """Comparison of a run with the first one, on the same rows."""

    run_id: str
    differences: dict[str, Difference]
    """Metric → this run minus the first one; empty if the runs cannot be paired."""
    why_not: str = ""
    can_score: bool = False
    """Whether the older model of the two can be scored on the newer night's rows."""
    rows_of: str = ""
    """Id of the run on whose rows both models were scored, if only one was evaluated on them."""


@dataclass(frozen=True)
class ChangedSetting:
    """A key of the spec whose value differs between runs."""

    key: str
    values: tuple[str | None, ...]
    """Value in each run; None if the run does not have the key."""


@dataclass(frozen=True)
class RunComparison:
    """Comparison of two or more runs."""

    views: tuple[RunView, ...]
    pairs: tuple[RunPair, ...]
    """Comparisons of all runs except the first with the first one."""
    changed: tuple[ChangedSetting, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """Digest of each run's code, for the stages that all runs have, since one may end early.

        Empty if the runs have no stage in common.
        """
        ran = [{stage.name for stage in view.stages if stage.manifest} for view in self.views]
        common = [
            stage.name
            for stage in self.views[0].stages
            if all(stage.name in names for names in ran)
        ]
        return tuple(view.code_digest_of(common) if common else "" for view in self.views)

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> RunComparison:
        """Compare runs with the first of them.

        Raises:
            ConfigError: There are fewer than two different runs.
        """
        if len({(run.head.pipeline, run.run_id) for run in runs}) < 2:
            raise ConfigError(
                f"only one run to compare: {runs[0].run_id}" if runs else "no run to compare",
                where="compare",
                hint="name two or more different runs",
            )
        views = tuple(RunView(run) for run in runs)
        pairs = tuple(_pair(views[0], view) for view in views[1:])
        return cls(views, pairs, changed_keys([view.head.spec for view in views]))


def _pair(first: RunView, other: RunView) -> RunPair:
    name = other.head.run_id
    digests = [view.evaluation.get("rows_digest") for view in (first, other)]
    if not all(digests):
        lacking = first if not digests[0] else other
        is_done = lacking.stage("evaluate").state == "done"
        why = "has an evaluation whose output was deleted" if is_done else "was not evaluated"
        return RunPair(name, {}, f"{lacking.head.run_id} {why}")
    # Import NumPy and SciPy only if there is something to compute.
    from nightbid.evaluation.paired import KeptScores, paired, paired_values
    from nightbid.evaluation.rescore import rescored, why_not

    rows_of = ""
    try:
        if digests[0] == digests[1]:
            folders = [view.stage("evaluate").folder for view in (first, other)]
            scores = [KeptScores.load(fetch(folder)) for folder in folders if folder is not None]
        else:
            older, newer = older_and_newer(first.run, other.run)
            older_scores = rescored(older, newer)
            if older_scores is None:
                why = why_not(older, newer)
                reason = f"evaluated on different rows than {first.head.run_id}"
                return RunPair(name, {}, f"{reason}; {why}" if why else reason, can_score=not why)
            rows_of = newer.run_id
            evaluated = (first if newer is first.run else other).stage("evaluate").folder
            assert evaluated is not None, "it has a digest of its rows"
            scores = [older_scores, KeptScores.load(fetch(evaluated))]
            if newer is first.run:
                scores.reverse()
        seed = int(str(first.head.spec.get("seed") or 0))
        is_value = first.evaluation.get("kind") == "value"
        compare = paired_values if is_value else paired
        return RunPair(name, compare(*scores, replicates=REPLICATES, seed=seed), rows_of=rows_of)
    except NightbidError as error:
        return RunPair(name, {}, error.what)


def older_and_newer(one: RunRecord, two: RunRecord) -> tuple[RunRecord, RunRecord]:
    """Order two runs by their night, or by their start if they are of the same night."""
    older, newer = sorted((one, two), key=lambda run: (run.date, run.head.started))
    return older, newer


def changed_keys(specs: Sequence[dict[str, Any]]) -> tuple[ChangedSetting, ...]:
    """List the keys whose values differ, dotted as in `--set`."""
    trees = [dict(flat(spec)) for spec in specs]
    keys = sorted({key for tree in trees for key in tree})
    rows = [ChangedSetting(key, tuple(tree.get(key) for tree in trees)) for key in keys]

    def says_more(row: ChangedSetting) -> bool:
        # If one run has an empty block and another has keys in it, the keys are listed instead.
        empty = set(row.values) == {None, "{}"}
        return not (empty and any(key.startswith(f"{row.key}.") for key in keys))

    return tuple(row for row in rows if len(set(row.values)) > 1 and says_more(row))


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of a nested mapping, as in `--set`, with their values as text."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
