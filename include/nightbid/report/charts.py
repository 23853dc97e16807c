"""Charts as figures of a page, drawn by its script (`assets/charts.js`, Observable Plot).

Every chart has a title and a description for screen readers, and refers to the table of the page
with the same figures, for screen readers and browsers without scripts. Colors are CSS variables of
the page (`s0`, `s1`, …, `good`, `bad`), so that the page controls light and dark themes.
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
"""Size of a chart in pixels; it shrinks on narrower screens."""
Point = tuple[float | date, float]


@dataclass(frozen=True)
class Series:
    """A line of a line chart."""

    name: str
    points: Sequence[Point]
    """Points in order of x; either all x are days or none is."""
    dashed: bool = False
    marks: bool = True
    line: bool = True
    tone: str = ""
    """Color of the line; empty: by its position among the lines."""
    notes: Sequence[str] = ()
    """Label of each point, if its x does not identify it."""


@dataclass(frozen=True)
class ChartSpan:
    """A row of an interval chart: a value with its bounds."""

    name: str
    value: float
    low: float | None
    high: float | None
    note: str = ""

    @property
    def tone(self) -> str:
        """Color: good if the interval is below 0, bad if above it, neutral if it includes 0."""
        if self.low is None or self.high is None:
            return "s0"
        return "good" if self.high < 0 else "bad" if self.low > 0 else "s0"


@dataclass(frozen=True)
class Bar:
    """A bar of a bar chart, with an optional mark for its limit."""

    name: str
    value: float
    label: str
    limit: float | None = None
    tone: str = "s0"


@dataclass(frozen=True)
class Dot:
    """A dot of a scatter chart."""

    x: float
    y: float
    name: str
    tone: str = "s0"


@dataclass(frozen=True)
class ChartText:
    """Title and description of a chart, and the table with its figures."""

    title: str
    description: str
    """Sentence that says what the chart shows."""
    figures: str
    """`id` of the table on the page with the same figures."""


def line_chart(
    series: Sequence[Series],
    words: ChartText,
    *,
    x_label: str,
    y_label: str,
    zero: bool = False,
    diagonal: bool = False,
    height: int = HEIGHT,
) -> Markup:
    """Make a line chart.

    Args:
        series: Lines: at most four, unless they have their own colors.
        words: Title, description and table of the chart.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        zero: Whether the y axis starts at 0.
        diagonal: Whether both axes have the same scale, with the line y = x, as for predicted
            against observed values.
        height: Height in pixels.
    """
    lines = [
        {
            **asdict(line),
            "tone": line.tone or f"s{at}",
            "points": [(_plain(x), y) for x, y in line.points],
        }
        for at, line in enumerate(series)
    ]
    dates = any(isinstance(x, date) for line in series for x, _ in line.points)
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


def scatter_chart(dots: Sequence[Dot], words: ChartText, *, x_label: str, y_label: str) -> Markup:
    """Make a scatter chart whose x axis starts at 0."""
    return _chart(
        "dots",
        words,
        dots=[asdict(dot) for dot in dots],
        x={"label": x_label},
        y={"label": y_label},
        width=WIDTH,
        height=HEIGHT,
    )


def interval_chart(spans: Sequence[ChartSpan], words: ChartText, *, label: str) -> Markup:
    """Make a chart of values with their intervals, one per row, around 0."""
    rows = [{**asdict(span), "tone": span.tone} for span in spans]
    return _chart("intervals", words, spans=rows, x={"label": label}, width=720)


def bar_chart(bars: Sequence[Bar], words: ChartText, *, name_width: int = 130) -> Markup:
    """Make a chart of horizontal bars from 0, each with its label and a line at its limit."""
    rows = [asdict(bar) for bar in bars]
    return _chart("bars", words, bars=rows, names=name_width, width=720)


def sparkline(values: Mapping[str, float | None], words: ChartText) -> Markup:
    """Make a word-sized trend of named points; None leaves a gap."""
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
    """Convert a value to JSON; NaN and infinity become null, which charts do not draw."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(nested) for key, nested in value.items()}
        case list() | tuple():
            return [_finite(nested) for nested in value]
        case _:
            return value


def _chart(kind: str, words: ChartText, **figures: Any) -> Markup:
    content = _finite({"kind": kind, **asdict(words), **figures})
    return Markup(
        '<div class="chart {kind}"><script type="application/json">{data}</script>'
        '<p class="soft">This chart needs JavaScript; <a href="#{figures}">its figures</a> do not.'
        "</p></div>"
    ).format(kind=kind, data=htmlsafe_json_dumps(content, allow_nan=False), figures=words.figures)
