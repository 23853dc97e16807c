"""Statistical tests of the equivalence of two sides, paired by seed, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from scipy import stats

TOO_WIDE = math.log(100)
"""Half-width of an interval of a logarithm from which it is useless, because of too few seeds."""
LEVEL = 0.05
"""Significance level of each of the two one-sided tests."""


class Equivalence(BaseModel):
    """Two one-sided tests (Schuirmann 1987) of paired differences against a margin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float
    before: tuple[float, ...]
    """Values of the present side, one per seed."""
    after: tuple[float, ...]
    mean: float
    """Mean difference, candidate minus present."""
    low: float
    """Lower bound of the 90% interval of the mean. If the interval is within the margin, p < 0.05
    in both tests."""
    high: float
    p: float
    """Larger p-value of the two tests."""
    seed_noise: float
    """Standard deviation between the seeds of the present side."""

    @property
    def equivalent(self) -> bool:
        """Whether a difference as large as the margin is excluded."""
        return -self.margin < self.low and self.high < self.margin

    @property
    def different(self) -> bool:
        """Whether the difference is beyond chance, regardless of its size."""
        return self.low > 0 or self.high < 0


def tost(before: Sequence[float], after: Sequence[float], margin: float) -> Equivalence:
    """Test whether two sides are equivalent.

    Args:
        before: Values of the present side, one per seed.
        after: Values of the candidate, for the same seeds.
        margin: Largest difference that does not matter.

    Raises:
        ValueError: There are fewer than two seeds, or the numbers of seeds differ.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    n = len(differences)
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(n)
    half = float(stats.t.ppf(1 - LEVEL, n - 1)) * error
    if error:
        p = float(stats.t.sf((margin - abs(mean)) / error, n - 1))
    else:
        p = 0.0 if abs(mean) < margin else 1.0
    return Equivalence(
        margin=margin,
        before=tuple(before),
        after=tuple(after),
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=p,
        seed_noise=statistics.stdev(before),
    )


class Ratio(BaseModel):
    """Ratio of the candidate to the present side, as the geometric mean over seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: float
    """Mean of the present side."""
    after: float
    ratio: float
    low: float | None = None
    """Lower bound of an interval of the ratio that holds for all ratios of a rehearsal together;
    None if there are too few seeds."""
    high: float | None = None


def ratio(before: Sequence[float], after: Sequence[float], *, compared: int) -> Ratio | None:
    """Compare times or sizes, seed by seed.

    Args:
        before: Positive values of the present side, one per seed.
        after: Positive values of the candidate, for the same seeds.
        compared: Number of such ratios in the rehearsal, by which the level is divided
            (Bonferroni).

    Returns:
        The ratio; None if a value is missing or not positive.
    """
    pairs = list(zip(before, after, strict=True))
    if not pairs or any(a <= 0 or b <= 0 for a, b in pairs):
        return None
    logs = [math.log(b / a) for a, b in pairs]
    mean, n = statistics.fmean(logs), len(logs)
    low = high = None
    if n > 1:
        level = 1 - 0.01 / max(compared, 1) / 2
        half = float(stats.t.ppf(level, n - 1)) * statistics.stdev(logs) / math.sqrt(n)
        if half < TOO_WIDE:
            low, high = math.exp(mean - half), math.exp(mean + half)
    return Ratio(
        before=statistics.fmean(before),
        after=statistics.fmean(after),
        ratio=math.exp(mean),
        low=low,
        high=high,
    )
