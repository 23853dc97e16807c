"""Compares the answers of both sides, and makes findings and tables for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from nightbid.counts import counted
from nightbid.differences import with_interval
from nightbid.evaluation.paired import KeptScores
from nightbid.rehearse.contract import ProcessAnswer, StageAnswer
from nightbid.rehearse.equivalence import Equivalence, Ratio, ratio, tost
from nightbid.rehearse.findings import RehearsalFinding
from nightbid.rehearse.metadata import Migrated
from nightbid.rehearse.tables import (
    ColumnDifference,
    PredictionDifference,
    compare_files,
    compare_predictions,
)

METRIC_TOLERANCE = 1e-9
ROUNDING = 1e-6
"""Largest relative difference between floats that is only noted; larger ones are grave."""
SLOWER = 1.25
"""Ratio of time or memory from which a slower stage, beyond chance, is noted."""


@dataclass
class RehearsalComparison:
    """Results of all comparisons."""

    findings: list[RehearsalFinding] = field(default_factory=list)
    features: list[ColumnDifference] = field(default_factory=list)
    features_equal: str = ""
    """Sentence about how equal the features are."""
    training: Equivalence | None = None
    predictions: list[tuple[int, PredictionDifference]] = field(default_factory=list)
    between_seeds: PredictionDifference | None = None
    """Difference between the present side's first two seeds, as the effect of the seed alone."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    serving: list[dict[str, Any]] = field(default_factory=list)
    speed: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    metadata: Migrated | None = None
    """Migration of Airflow's database; None if no package of Airflow changes."""

    def add(self, kind: Any, subject: str, text: str, *, grave: bool) -> None:
        """Add a finding."""
        self.findings.append(RehearsalFinding(kind=kind, subject=subject, grave=grave, text=text))


def failures(comparison: RehearsalComparison, before: ProcessAnswer, after: ProcessAnswer) -> None:
    """Find stages that fail on the candidate's side only."""
    if after.night is None:
        return
    if after.night.error:
        comparison.add(
            "failure", "night", f"the night cannot start: {after.night.error}", grave=True
        )
    for name, stage in _stages(after).items():
        other = _stages(before).get(name, StageAnswer())
        if stage.error and not other.error:
            comparison.add("failure", name, f"{name} fails: {stage.error}", grave=True)


def settings(comparison: RehearsalComparison, before: ProcessAnswer, after: ProcessAnswer) -> None:
    """Find settings whose values differ for the same YAML, because defaults have changed."""
    if before.night is None or after.night is None or not (before.night.spec and after.night.spec):
        return
    one, two = dict(_flat(before.night.spec)), dict(_flat(after.night.spec))
    for key in sorted({*one, *two}):
        if one.get(key) != two.get(key):
            row = {"key": key, "before": one.get(key, "–"), "after": two.get(key, "–")}
            comparison.settings.append(row)
            comparison.add(
                "settings", key, f"{key} is {row['after']}, was {row['before']}", grave=False
            )


def features(comparison: RehearsalComparison, before: ProcessAnswer, after: ProcessAnswer) -> None:
    """Compare model inputs and fitted state, value by value if their bytes differ."""
    one, two = _stages(before).get("featurize"), _stages(after).get("featurize")
    if one is None or two is None or one.error or two.error:
        return
    if one.digest == two.digest:
        files = counted(len(one.files), "file")
        comparison.features_equal = f"byte-equal: {counted(one.rows, 'row')}, {files}"
        return
    names = sorted({*one.files, *two.files})
    absent = [name for name in names if name not in one.files or name not in two.files]
    for name in absent:
        comparison.add("features", name, f"{name} exists on one side only", grave=True)
    other = [name for name in names if name not in absent and one.files[name] != two.files[name]]
    rows = [name for name in other if name.startswith("split=") and name.endswith(".parquet")]
    comparison.features = compare_files(Path(one.folder), Path(two.folder), rows)
    for change in comparison.features:
        grave = not (change.is_float and change.relative <= ROUNDING)
        how_far = f"by at most {change.largest:.3g} (relative {change.relative:.3g})"
        comparison.add(
            "features",
            change.column,
            f"{change.column} differs in {change.rows:,} of"
            f" {counted(change.of_rows, 'row')}, {how_far};"
            f" {change.examples[0]}",
            grave=grave,
        )
    fitted = [name for name in other if name.startswith("fitted/")]
    comparison.features_equal = (
        counted(len(comparison.features), "column differs", "columns differ")
        if comparison.features
        else f"values equal; {counted(len(other), 'file differs', 'files differ')} in bytes only"
    )
    if fitted:
        text = f"fitted state differs: {', '.join(fitted[:3])}"
        comparison.features_equal += f"; {text}"
        if not comparison.features:
            comparison.add("features", "fitted state", text, grave=False)


def metrics(comparison: RehearsalComparison, before: ProcessAnswer, after: ProcessAnswer) -> None:
    """Compare the metrics of both sides on identical predictions."""
    one, two = before.metrics, after.metrics
    if one is None or two is None or "error" in one:
        return
    if "error" in two:
        comparison.add("metrics", "all", f"metrics cannot be computed: {two['error']}", grave=True)
        return
    for model, figures in one.items():
        for name, value in figures.items():
            other = two.get(model, {}).get(name)
            same = value == other or (
                value is not None
                and other is not None
                and abs(other - value) <= METRIC_TOLERANCE * max(1.0, abs(value))
            )
            comparison.metrics.append(
                {"model": model, "name": name, "before": value, "after": other, "same": same}
            )
            if not same:
                comparison.add(
                    "metrics", name,
                    f"{name} of the same predictions ({model}) is {other}, was {value}", grave=True,
                )  # fmt: skip


def training(
    comparison: RehearsalComparison,
    before: Sequence[ProcessAnswer],
    after: Sequence[ProcessAnswer],
    margin: float,
) -> None:
    """Test the equivalence of the trained models, and compare their predictions row by row."""
    pairs = [
        (one, two)
        for one, two in zip(before, after, strict=True)
        if _entropy(one) is not None and _entropy(two) is not None
    ]
    if len(pairs) < 2:
        return
    tested = tost(
        [float(_entropy(one)) for one, _ in pairs],  # type: ignore[arg-type]
        [float(_entropy(two)) for _, two in pairs],  # type: ignore[arg-type]
        margin,
    )
    comparison.training = tested
    if not tested.equivalent:
        measured = {"value": tested.mean, "low": tested.low, "high": tested.high}
        verb = "is not shown to be equivalent" if abs(tested.mean) < margin else "changes"
        comparison.add(
            "training", "normalized entropy",
            f"normalized entropy {verb}: {with_interval(measured, '.5f')}"
            f" against a margin of {margin:g}; seeds alone: {tested.seed_noise:.5f}"
            + ("" if abs(tested.mean) >= margin else "; more --seeds may decide"),
            grave=True,
        )  # fmt: skip
    for seed, (one, two) in enumerate(pairs):
        a, b = _scores(one), _scores(two)
        if a is None or b is None or not np.array_equal(a.keys, b.keys):
            continue
        comparison.predictions.append((seed, compare_predictions(a.scores, b.scores, a.users)))
    first, second = _scores(before[0]), _scores(before[1])
    if first is not None and second is not None and np.array_equal(first.keys, second.keys):
        comparison.between_seeds = compare_predictions(first.scores, second.scores, first.users)
    changed = [difference for _, difference in comparison.predictions if difference.changed]
    if changed:
        worst = max(changed, key=lambda difference: difference.largest)
        share = sum(difference.share for difference in changed) / len(comparison.predictions)
        noise = comparison.between_seeds
        comparison.add(
            "predictions", "retrained models",
            f"predictions differ by at most {worst.largest:.3g}, {worst.mean:.3g} on average;"
            f" {share:.1%} of rankings change"
            + (f" (between seeds: {noise.mean:.3g}, {noise.share:.1%})" if noise else ""),
            grave=False,
        )  # fmt: skip


def models(
    comparison: RehearsalComparison,
    before: ProcessAnswer,
    after: ProcessAnswer,
    first: ProcessAnswer,
    second: ProcessAnswer,
) -> None:
    """Compare the scores of a model of each side, computed by both sides.

    Args:
        comparison: Comparison to add to.
        before: Answer of the present side's probe, with its own model and the candidate's.
        after: Answer of the candidate's probe.
        first: First night of the present side, for errors.
        second: First night of the candidate.
    """
    for title, one, two in (
        ("trained under the present lock", before.score_own, after.score_other),
        ("trained under the candidate lock", after.score_own, before.score_other),
    ):
        if one is None or two is None or "error" in one:
            continue
        place = "under the candidate" if one is before.score_own else "under the present lock"
        if "error" in two:
            comparison.models.append({"model": title, "error": two["error"]})
            comparison.add(
                "champion", title, f"a model {title} does not load {place}: {two['error']}",
                grave=True,
            )  # fmt: skip
            continue
        a, b = (pq.read_table(answer["to"])["probability"].to_numpy() for answer in (one, two))
        distance = np.abs(a - b)
        largest = float(distance.max(initial=0.0))
        row = {"model": title, "rows": len(a), "largest": largest,
               "changed": int((distance > 0).sum())}  # fmt: skip
        comparison.models.append(row)
        if largest > 0:
            comparison.add(
                "champion", title,
                f"a model {title} scores {row['changed']:,} of {counted(len(a), 'row')} differently"
                f" {place},"
                f" by at most {largest:.3g}",
                grave=largest > ROUNDING,
            )  # fmt: skip
    for figure in ("parity_max_difference", "skew_mismatches"):
        was = _stages(first).get("export", StageAnswer()).metrics.get(figure)
        now = _stages(second).get("export", StageAnswer()).metrics.get(figure)
        if was is None or now is None:
            continue
        comparison.serving.append({"name": figure, "before": was, "after": now})
        if now > max(was, ROUNDING if figure.startswith("parity") else 0) * 2:
            comparison.add("serving", figure, f"{figure} is {now:g}, was {was:g}", grave=True)


def records(comparison: RehearsalComparison, before: ProcessAnswer, after: ProcessAnswer) -> None:
    """Compare what each side reads from a workspace that the present version wrote."""
    one, two = before.records, after.records
    if one is None or two is None or "error" in one:
        return
    if "error" in two:
        comparison.add(
            "records", "workspace", f"old records do not open: {two['error']}", grave=True
        )
        return
    for name in one:
        same = one[name] == two.get(name)
        comparison.records.append(
            {"name": name, "before": _brief(one[name]), "after": _brief(two.get(name)),
             "same": same}
        )  # fmt: skip
        if not same:
            comparison.add(
                "records", name, f"{name} of the old workspace reads differently", grave=True
            )


def speed(
    comparison: RehearsalComparison, before: Sequence[ProcessAnswer], after: Sequence[ProcessAnswer]
) -> None:
    """Compare time, memory and latency, seed by seed, with intervals."""
    names = [name for name in _stages(before[0]) if name != "sample"]
    rows: list[tuple[str, str, list[float], list[float]]] = []
    for name in names:
        for title, of in (("seconds", _seconds), ("CPU seconds", _cpu), ("memory, GB", _memory)):
            one, two = ([of(answer, name) for answer in side] for side in (before, after))
            rows.append((name, title, one, two))
    for figure in ("p50", "p99"):
        one, two = ([_latency(answer, figure) for answer in side] for side in (before, after))
        rows.append(("load_test", f"{figure}, ms", one, two))
    for name, title, one, two in rows:
        compared = ratio(one, two, compared=len(rows))
        if compared is None:
            continue
        comparison.speed.append({"stage": name, "what": title, **compared.model_dump()})
        if compared.low is not None and compared.low > SLOWER:
            comparison.add("speed", f"{name}, {title}", _slower(name, title, compared), grave=False)


def warned(
    comparison: RehearsalComparison, before: Sequence[ProcessAnswer], after: Sequence[ProcessAnswer]
) -> None:
    """Find deprecation warnings that only the candidate issues."""
    known = {(warning.library, warning.text) for answer in before for warning in answer.warnings}
    fresh: dict[tuple[str, str, str], dict[str, str]] = {}
    for deprecation in (deprecation for answer in after for deprecation in answer.warnings):
        if (deprecation.library, deprecation.text) not in known:
            fresh[deprecation.library, deprecation.text, deprecation.line] = (
                deprecation.model_dump()
            )
    comparison.warnings = [fresh[key] for key in sorted(fresh)]
    for warning in comparison.warnings:
        line = f" at {warning['line']}" if warning["line"] else ""
        text = f"{warning['library']}: {warning['category']}{line}: {warning['text'][:160]}"
        comparison.add("warnings", warning["library"], text, grave=False)


def _slower(name: str, title: str, compared: Ratio) -> str:
    return (
        f"{name} takes {compared.ratio:.2f} times the {title}"
        f" [{compared.low or 0:.2f}, {compared.high or 0:.2f}]"
    )


def metadata(comparison: RehearsalComparison, done: Migrated) -> None:
    """Add findings if Airflow's database cannot be migrated or loses rows."""
    comparison.metadata = done
    if done.error:
        comparison.add("database", "metadata", done.error, grave=True)
    if done.not_copied:
        text = "the installation's database was not copied, a new one was migrated"
        text = f"{text}: {done.not_copied}"
        comparison.add("database", "copy", text, grave=False)
    for line in done.fewer:
        comparison.add("database", line.partition(":")[0], line, grave=False)


def _stages(answer: ProcessAnswer) -> dict[str, StageAnswer]:
    return answer.night.stages if answer.night else {}


def _entropy(answer: ProcessAnswer) -> float | None:
    stage = _stages(answer).get("evaluate")
    figures = (stage.metrics.get("candidate") or {}) if stage else {}
    value = figures.get("normalized_entropy")
    return None if value is None else float(value)


def _scores(answer: ProcessAnswer) -> KeptScores | None:
    stage = _stages(answer).get("evaluate")
    if stage is None or stage.error:
        return None
    return KeptScores.load(Path(stage.folder))


def _seconds(answer: ProcessAnswer, name: str) -> float:
    return _stages(answer).get(name, StageAnswer()).seconds


def _cpu(answer: ProcessAnswer, name: str) -> float:
    return _stages(answer).get(name, StageAnswer()).used.cpu_seconds


def _memory(answer: ProcessAnswer, name: str) -> float:
    used = _stages(answer).get(name, StageAnswer()).used
    return used.gb_seconds / used.wall_seconds if used.wall_seconds else 0.0


def _latency(answer: ProcessAnswer, figure: str) -> float:
    stage = _stages(answer).get("load_test", StageAnswer())
    return float((stage.metrics.get("latency_ms") or {}).get(figure) or 0.0)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, nested in value.items():
            yield from _flat(nested, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _brief(value: Any) -> str:
    return f"{len(value)}" if isinstance(value, (dict, list)) else str(value)
