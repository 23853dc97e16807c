"""What training on days with incomplete conversions gains (elapsed-time likelihood).

    nice python benchmarks/delays.py                      # ten simulated nights
    nice python benchmarks/delays.py --rows 20000 --nights 4

A conversion counts if it happens within three days of its impression. At the end of a night, the
newest three days are young: a row of age e has P(seen) = p · G(e). Four boosted-tree models of
conversion after a click are evaluated on the final labels of the day after the night:

    left out   trained only on days with final labels (what a night does)
    negatives  also on young days, with the conversions seen by then
    elapsed    also on young days, with −y log(pG) − (1 − y) log(1 − pG)
    oracle     also on young days, with their future final labels

G is the distribution of the delays of final rows in units of their category's mean (shrunk by
empirical Bayes); all categories share its shape. --delays only measures G, on 14 days.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from nightbid.config.load import load_pipeline
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.models.layout import Layout
from nightbid.models.registry import find
from nightbid.models.trees import tree_matrix
from nightbid.training.refit import compare

FIRST = date(2026, 1, 24)
HOUR, HOURS = 3_600_000_000, 72
MATURED, YOUNG = 8, 3
MODELS = ("left out", "negatives", "elapsed", "oracle")


@dataclass(frozen=True)
class Delays:
    """Distribution of conversion delays."""

    mean: dict[str, float]
    overall: float
    shape: np.ndarray
    """Delays divided by their category's mean, in increasing order."""

    @classmethod
    def fit(cls, hours: np.ndarray, category: np.ndarray) -> Delays:
        overall = float(hours.mean())
        names, code = np.unique(category, return_inverse=True)
        count, total = np.bincount(code), np.bincount(code, hours)
        # Delays within a category have a deviation like their mean. Variance between the means
        # beyond that is attributed to the categories.
        between = float((count * (total / count - overall) ** 2).sum() / len(hours))
        own = max(between - overall**2 * len(names) / len(hours), 1e-9)
        prior = overall**2 / own
        mean = dict(zip(names.tolist(), (total + prior * overall) / (count + prior), strict=True))
        unit = np.array([mean[str(name)] for name in category])
        return cls(mean, overall, np.sort(hours / unit))

    def seen(self, age: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Return the share of conversions seen by an age in hours."""
        unit = np.array([self.mean.get(str(name), self.overall) for name in category])
        share = np.searchsorted(self.shape, age / unit, side="right") / len(self.shape)
        return np.clip(np.where(age >= HOURS, 1.0, share), 1e-3, 1.0)


def hours(table: pa.Table, later: str, earlier: str) -> np.ndarray:
    microseconds = pc.subtract(table[later].cast(pa.int64()), table[earlier].cast(pa.int64()))
    return np.asarray(pc.fill_null(microseconds, HOUR * 10_000)).astype(float) / HOUR


def train(settings, shift, fit, validate):
    """Boost with the elapsed-time likelihood; `fit` is matrix, label and G, `validate` lacks G."""

    def objective(score, data):
        p = 1 / (1 + np.exp(-(score + shift)))
        y, g = data.get_label(), fit[2]
        unseen = 1 - p * g
        slope = np.where(y == 1, p - 1, g * p * (1 - p) / unseen)
        bend = g * p * (1 - p) * ((1 - 2 * p) * unseen + g * p * (1 - p)) / unseen**2
        return slope, np.where(y == 1, p * (1 - p), np.maximum(bend, 1e-6))

    def loss(score, data):
        p = np.clip(1 / (1 + np.exp(-(score + shift))), 1e-7, 1 - 1e-7)
        y = data.get_label()
        return "log_loss", float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()), False

    rows = lightgbm.Dataset(fit[0], label=fit[1])
    booster = lightgbm.train(
        {**settings, "objective": objective, "deterministic": True, "force_row_wise": True,
         "use_missing": False, "num_threads": 1, "seed": 0, "verbosity": -1},
        rows, valid_sets=[rows.create_valid(validate[0], label=validate[1])], feval=loss,
        callbacks=[lightgbm.early_stopping(settings["early_stopping_round"], verbose=False)],
    )  # fmt: skip
    return lambda matrix: 1 / (1 + np.exp(-(booster.predict(matrix) + shift)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--delays", action="store_true")
    options = parser.parse_args()
    path = Path(__file__).parents[1] / "include" / "pipelines" / "cvr.yaml"
    spec = load_pipeline(path, [f"source.rows_per_day={options.rows}"])
    logs = SimulatorLogs(spec.source)
    features = {
        name: feature
        for name, feature in spec.features.items()
        if feature.transform != "target_rate" and not feature.training_only
    }
    definition = Definition.of(spec.model_copy(update={"features": features}))
    settings = find("gradient_boosted_trees").build()

    @cache
    def clicked(day: date) -> pa.Table:
        table = pa.Table.from_batches(list(logs.batches(day)))
        return table.filter(pc.equal(table["click"], 1))

    if options.delays:
        table = pa.concat_tables([clicked(FIRST - timedelta(back)) for back in range(14)])
        waited = hours(table, "conversion_time", "time")
        known = waited <= HOURS
        category = np.asarray(table["ad_category"].to_pylist())
        tell_delays(waited[known], category[known], table)
        return
    judged, errors = [], []
    for number in range(options.nights):
        night = FIRST + timedelta(number)
        days = [night - timedelta(back) for back in range(MATURED + YOUNG - 1, -1, -1)]
        parts = [clicked(date_clicked) for date_clicked in [*days, night + timedelta(1)]]
        table = pa.concat_tables(parts, promote_options="permissive")
        day = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        waited = hours(table, "conversion_time", "time")
        final = waited <= HOURS
        midnight = (night + timedelta(1) - date(1970, 1, 1)).days * 24.0
        time = np.asarray(table["time"].cast(pa.int64())) / HOUR
        age = midnight - time
        seen = final & (waited <= age)
        category = np.asarray(table["ad_category"].to_pylist())
        is_train, is_young = day < MATURED - 1, (day >= MATURED) & (day < MATURED + YOUNG)
        is_newer, is_test = day == MATURED - 1, day == MATURED + YOUNG
        known = final & (is_train | is_newer)
        delays = Delays.fit(waited[known], category[known])
        errors.append(error_of(delays, table))
        g = np.where(is_young, delays.seen(age, category), 1.0)
        fitted = FittedFeatures.fit(
            definition, learn(definition.features, table.filter(pa.array(is_train)), train=True)
        )
        layout = Layout(fitted.schema)
        matrix = tree_matrix(layout, layout.pack(fitted.transform(table), serving=True))
        rate = final[is_train].mean()
        shift = float(np.log(rate / (1 - rate)))
        predictions = {}
        for name in MODELS:
            rows = is_train if name == "left out" else is_train | is_young
            label = final if name == "oracle" else np.where(is_young, seen, final)
            share = g if name == "elapsed" else np.ones(len(g))
            fit = (matrix[rows], label[rows].astype(float), share[rows])
            newer = (matrix[is_newer], final[is_newer].astype(float))
            predictions[name] = train(settings, shift, fit, newer)(matrix[is_test])
        part = table.filter(pa.array(is_test))
        judged.append((part, final[is_test], predictions))
        counts = [f"{int(rows_chosen.sum()):,}" for rows_chosen in (is_train, is_young, is_test)]
        print(f"  {night}: {' / '.join(counts)} final / young / judged clicks; G within"
              f" {errors[-1]:.3f}", flush=True)  # fmt: skip
    report(judged, errors)


def error_of(delays: Delays, table: pa.Table) -> float:
    """Return the largest difference from the simulator's G, over categories and hours."""
    ages = np.arange(0.5, HOURS, 0.5)
    return max(
        float(np.abs(delays.seen(ages, np.array([name] * len(ages))) - true).max())
        for name, true in true_curves(table, ages).items()
    )


def true_curves(table: pa.Table, ages: np.ndarray) -> dict[str, np.ndarray]:
    """Map each category to the share of its three-day conversions seen by an age in hours."""
    names, means = table["ad_category"].to_pylist(), table["conversion_delay_true"].to_pylist()
    return {
        name: (1 - np.exp(-ages / mean)) / (1 - np.exp(-HOURS / mean))
        for name, mean in dict(zip(names, means, strict=True)).items()
    }


def tell_delays(waited: np.ndarray, category: np.ndarray, table: pa.Table) -> None:
    """Print the error of G by category, and that of a Kaplan-Meier curve per category.

    All labels are final, so nothing is censored: Kaplan-Meier is the empirical distribution.
    """
    delays, ages = Delays.fit(waited, category), np.arange(0.5, HOURS, 0.5)
    results = []
    for name, true in true_curves(table, ages).items():
        waits = np.sort(waited[category == name])
        alone = np.searchsorted(waits, ages, side="right") / len(waits)
        shared = delays.seen(ages, np.array([name] * len(ages)))
        results.append(
            (len(waits), name, *(np.abs(share - true).max() for share in (shared, alone)))
        )
    print(f"{len(waited):,} conversions of 14 days, largest error of G by category")
    for count, name, shared, alone in sorted(results):
        print(f"  {name:14}{count:>8,}   G {shared:.3f}   Kaplan-Meier {alone:.3f}")
    counts, _, *errors = (np.array(values) for values in zip(*results, strict=True))
    for name, gaps in zip(("G", "Kaplan-Meier"), errors, strict=True):
        print(f"  {name}: {int((gaps <= 0.02).sum())} of {len(gaps)} categories within 0.02,"
              f" mean over conversions {counts @ gaps / counts.sum():.3f},"
              f" largest {gaps.max():.3f}")  # fmt: skip


def report(judged: list, errors: list[float]) -> None:
    label = np.concatenate([night[1] for night in judged]).astype(float)
    true = np.concatenate([delta[0]["p_conversion_true"].to_numpy() for delta in judged])
    users = np.concatenate([delta[0]["user_id"].to_pylist() for delta in judged])
    users = np.unique(users, return_inverse=True)[1].astype(np.int64)
    p = {name: np.concatenate([night[2][name] for night in judged]) for name in MODELS}
    print(
        f"\n{len(judged)} nights, {len(label):,} clicks, {int(label.sum()):,} conversions;"
        f" largest error of G {np.mean(errors):.3f} (mean), {max(errors):.3f} at most"
    )
    print(f"  {'':10}{'log loss':>10}{'expected':>10}{'calibration':>13}   less left out")
    for name in MODELS:
        clipped = np.clip(p[name], 1e-7, 1 - 1e-7)
        expected = float(-(true * np.log(clipped) + (1 - true) * np.log1p(-clipped)).mean())
        comparison = compare(p["left out"], p[name], labels=label, weights=np.ones(len(label)),
                        users=users)  # fmt: skip
        delta = comparison["difference"]
        print(f"  {name:10}{comparison['refitted']['log_loss']:10.5f}{expected:10.5f}"
              f"{comparison['refitted']['calibration']:13.3f}   {delta['value']:+.5f}"
              f" [{delta['low']:+.5f}, {delta['high']:+.5f}]")  # fmt: skip


if __name__ == "__main__":
    main()
