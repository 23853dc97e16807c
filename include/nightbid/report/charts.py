"""Charts as figures in the page, which its script draws (`assets/charts.js`, Observable Plot).

Every chart has a title and a description for screen readers, and names the table of the page that
holds the same figures, for those and for where no script runs. Colors are CSS variables of the
page (`s0`, `s1`, …, `good`, `bad`), so that light and dark are the page's affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

WIDTH, HEIGHT = 560, 300
"""Of a chart, in pixels; on a narrower screen it shrinks."""
Point = tuple[float | date, float]


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: Sequence[Point]
    """In order of x, all of them days or none."""
    dashed: bool = False
    marks: bool = True
    line: bool = True
    tone: str = ""
    """Its color; default: by its place among the lines."""
    notes: Sequence[str] = ()
    """What each point is, where its x does not say so."""


@dataclass(frozen=True)
class Span:
    """One line of an interval chart: a value with its bounds."""

    name: str
    value: float
    low: float | None
    high: float | None
    note: str = ""

    @property
    def tone(self) -> str:
        """Below 0 is good, above it bad, across it neither."""
        if self.low is None or self.high is None:
            return "s0"
        return "good" if self.high < 0 else "bad" if self.low > 0 else "s0"


@dataclass(frozen=True)
class Bar:
    """One bar, with an optional limit marked on it."""

    name: str
    value: float
    label: str
    limit: float | None = None
    tone: str = "s0"


@dataclass(frozen=True)
class Dot:
    """One dot of a scatter chart."""

    x: float
    y: float
    name: str
    tone: str = "s0"


@dataclass(frozen=True)
class Words:
    """What a chart is called and where its figures stand."""

    title: str
    description: str
    """What it shows, in a sentence."""
    figures: str
    """`id` of the table of the page with the same figures."""


def line_chart(
    series: Sequence[Series],
    words: Words,
    *,
    x_label: str,
    y_label: str,
    zero: bool = False,
    diagonal: bool = False,
    height: int = HEIGHT,
) -> Markup:
    """Lines over a common axis.

    Args:
        series: at most four, or with tones of their own.
        words: of the chart.
        x_label: what x measures.
        y_label: what y measures.
        zero: whether y begins at 0.
        diagonal: both axes alike, with the line y = x: where predicted is observed.
        height: in pixels.
    """
    lines = [
        {
            **asdict(each),
            "tone": each.tone or f"s{at}",
            "points": [(_plain(x), y) for x, y in each.points],
        }
        for at, each in enumerate(series)
    ]
    dates = any(isinstance(x, date) for each in series for x, _ in each.points)
    return _chart(
        "lines",
        words,
        series=lines,
        x={"label": x_label, "dates": dates},
        y={"label": y_label, "zero": zero},
        diagonal=diagonal,
        width=WIDTH,
        height=height,
    )


def scatter_chart(dots: Sequence[Dot], words: Words, *, x_label: str, y_label: str) -> Markup:
    """Dots over two axes; x begins at 0."""
    return _chart(
        "dots",
        words,
        dots=[asdict(each) for each in dots],
        x={"label": x_label},
        y={"label": y_label},
        width=WIDTH,
        height=HEIGHT,
    )


def interval_chart(spans: Sequence[Span], words: Words, *, label: str) -> Markup:
    """Values with their intervals, one below the other, around 0."""
    rows = [{**asdict(each), "tone": each.tone} for each in spans]
    return _chart("intervals", words, spans=rows, x={"label": label}, width=720)


def bar_chart(bars: Sequence[Bar], words: Words, *, name_width: int = 130) -> Markup:
    """Horizontal bars from 0, each with its figure, and a line where its limit is."""
    rows = [asdict(each) for each in bars]
    return _chart("bars", words, bars=rows, names=name_width, width=720)


def sparkline(values: Mapping[str, float | None], words: Words) -> Markup:
    """A trend as small as a word, by name of each point; None leaves a gap."""
    return _chart(
        "trend",
        words,
        names=list(values),
        values=list(values.values()),
        tone="s0",
        width=180,
        height=32,
    )


def _plain(x: float | date) -> float | str:
    return x.isoformat() if isinstance(x, date) else x


def _finite(value: Any) -> Any:
    """What JSON can hold: a figure that is none becomes null, which no chart draws."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case _:
            return value


def _chart(kind: str, words: Words, **figures: Any) -> Markup:
    content = _finite({"kind": kind, **asdict(words), **figures})
    return Markup(
        '<div class="chart {kind}"><script type="application/json">{data}</script>'
        '<p class="soft">A script draws this chart; <a href="#{figures}">its figures</a> need none.'
        "</p></div>"
    ).format(kind=kind, data=htmlsafe_json_dumps(content, allow_nan=False), figures=words.figures)
