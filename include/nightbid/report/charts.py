"""Charts as inline SVG, drawn where the page is made: no script, no network.

Every chart has a title and a description for screen readers; the pages put the figures behind it
in a table. Colours are CSS classes (`s0`, `s1`, …), so that light and dark are the page's affair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: Sequence[Point]
    dashed: bool = False
    marks: bool = True
    line: bool = True
    tone: str = ""
    """CSS class of its colour; default: by its place among the lines."""


@dataclass(frozen=True)
class Span:
    """One line of an interval chart: a value with its bounds."""

    name: str
    value: float
    low: float | None
    high: float | None
    note: str = ""


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
class Axis:
    """What an axis measures, and between which values."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...] = field(default=())
    dates: bool = False
    """Whether values are days, as `date.toordinal` numbers them."""

    @classmethod
    def over(
        cls, label: str, values: Sequence[float], *, zero: bool = False, dates: bool = False
    ) -> Axis:
        """Cover some values, ending on round numbers."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if high - low < 1e-12:
            pad = abs(high) * 0.05 or 0.5
            low, high = (low if zero and low == 0 else low - pad), high + pad
        whole = all(value == round(value) for value in finite)
        step = _round_step((high - low) / 4, whole=whole)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        count = round((high - low) / step)
        ticks = tuple(low + step * index for index in range(count + 1))
        if dates:
            # Days have no round numbers: from the first to the last.
            low, high = min(finite), max(finite)
            ticks = tuple(low + step * index for index in range(int((high - low) / step) + 1))
        return cls(label, low, high, ticks, dates)

    def text(self, value: float) -> str:
        """Write a value of this axis."""
        return f"{date.fromordinal(round(value)):%d %b}" if self.dates else _tick(value)

    def at(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two pixels."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def _round_step(rough: float, *, whole: bool) -> float:
    """The next round number; for counts (epochs, clients) a whole one."""
    rough = max(rough, 1.0) if whole else rough
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    return next(step * power for step in steps if step * power >= rough - 1e-15)


def _tick(value: float) -> str:
    if abs(value) < 1e-12:
        return "0"
    return f"{value:,.6g}"


def _svg(
    body: Sequence[str], title: str, description: str, width: float, height: float, css: str = ""
) -> Markup:
    return Markup(  # noqa: S704 - every text below went through escape
        f'<svg class="chart {css}" role="img" viewBox="0 0 {width:g} {height:g}"'
        f' style="max-width:{width:g}px"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(body)}</svg>"
    )


def _frame(x: Axis, y: Axis, width: float, height: float) -> list[str]:
    right, bottom = width - RIGHT, height - BOTTOM
    parts = []
    for value in y.ticks:
        at = y.at(value, bottom, TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(
            f'<text class="tick end" x="{LEFT - 6}" y="{at + 4:.1f}">{_tick(value)}</text>'
        )
    for value in x.ticks:
        at = x.at(value, LEFT, right)
        parts.append(
            f'<text class="tick mid" x="{at:.1f}" y="{bottom + 17}">{x.text(value)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="tick mid" x="{middle:.1f}" y="{height - 8}">{escape(x.label)}</text>'
    )
    parts.append(
        f'<text class="tick mid" transform="translate(13 {(TOP + bottom) / 2:.1f}) rotate(-90)">'
        f"{escape(y.label)}</text>"
    )
    return parts


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    title: str,
    description: str,
    zero: bool = False,
    diagonal: bool = False,
    dates: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Markup:
    """Lines over a common axis.

    Args:
        series: at most four, or with tones of their own; points in order of x.
        x_label: what x measures.
        y_label: what y measures.
        title: of the chart, for screen readers and as a tooltip.
        description: what it shows, in a sentence.
        zero: whether y begins at 0.
        diagonal: both axes alike, with the line y = x: where predicted is observed.
        dates: whether x are days, as `date.toordinal` numbers them.
        width: in pixels.
        height: in pixels.
    """
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points]
    if diagonal:
        x = Axis.over(x_label, [*xs, *ys], zero=True)
        y = Axis(y_label, x.low, x.high, x.ticks)
    else:
        x, y = Axis.over(x_label, xs, dates=dates), Axis.over(y_label, ys, zero=zero)
    right, bottom = width - RIGHT, height - BOTTOM
    parts = _frame(x, y, width, height)
    if diagonal:
        parts.append(f'<path class="grid ideal" d="M{LEFT} {bottom}L{right} {TOP}"/>')
    for index, each in enumerate(series):
        at = [(x.at(a, LEFT, right), y.at(b, bottom, TOP)) for a, b in each.points]
        if not at:
            continue
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in at)
        tone = escape(each.tone or f"s{index}")
        if each.line:
            dashed = " dashed" if each.dashed else ""
            parts.append(f'<path class="line {tone}{dashed}" d="M{path}"/>')
        if each.marks:
            parts += [
                f'<circle class="mark {tone}" cx="{a:.1f}" cy="{b:.1f}" r="3"><title>'
                f"{escape(each.name)}: {x.text(px)}, {_tick(py)}</title></circle>"
                for (a, b), (px, py) in zip(at, each.points, strict=True)
            ]
    return _svg(parts, title, description, width, height)


def scatter_chart(
    dots: Sequence[Dot], *, x_label: str, y_label: str, title: str, description: str
) -> Markup:
    """Dots over two axes; x begins at 0."""
    x = Axis.over(x_label, [each.x for each in dots], zero=True)
    y = Axis.over(y_label, [each.y for each in dots])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = _frame(x, y, WIDTH, HEIGHT)
    parts += [
        f'<circle class="mark {escape(each.tone)}" cx="{x.at(each.x, LEFT, right):.1f}"'
        f' cy="{y.at(each.y, bottom, TOP):.1f}" r="4.5"><title>{escape(each.name)}:'
        f" {_tick(each.x)}, {_tick(each.y)}</title></circle>"
        for each in dots
    ]
    return _svg(parts, title, description, WIDTH, HEIGHT)


def interval_chart(
    spans: Sequence[Span], *, label: str, title: str, description: str, width: int = 720
) -> Markup:
    """Values with their intervals, one below the other, around 0."""
    bounds = [
        value
        for span in spans
        for value in (span.low, span.high, span.value)
        if value is not None and math.isfinite(value)
    ]
    x = Axis.over(label, bounds, zero=True)
    left, row = 210, 24
    height = TOP + row * len(spans) + BOTTOM
    right, bottom = width - RIGHT, height - BOTTOM
    parts = []
    for value in x.ticks:
        at = x.at(value, left, right)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text class="tick mid" x="{at:.1f}" y="{bottom + 17}">{_tick(value)}</text>')
    zero = x.at(0, left, right)
    parts.append(f'<path class="axis" d="M{zero:.1f} {TOP}V{bottom}"/>')
    for index, span in enumerate(spans):
        y = TOP + row * index + row / 2
        name = span.name if len(span.name) <= 30 else span.name[:29] + "…"
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y + 4}">{escape(name)}</text>')
        tone = "s0"
        if span.low is not None and span.high is not None:
            tone = "good" if span.high < 0 else "bad" if span.low > 0 else "s0"
            low, high = x.at(span.low, left, right), x.at(span.high, left, right)
            parts.append(f'<path class="line {tone}" d="M{low:.1f} {y}H{high:.1f}"/>')
        at = x.at(span.value, left, right)
        parts.append(
            f'<circle class="mark {tone}" cx="{at:.1f}" cy="{y}" r="4"><title>{escape(span.name)}:'
            f" {span.value:+.4f} {escape(span.note)}</title></circle>"
        )
    middle = (left + right) / 2
    parts.append(f'<text class="tick mid" x="{middle}" y="{height - 8}">{escape(label)}</text>')
    return _svg(parts, title, description, width, height)


def bar_chart(
    bars: Sequence[Bar], *, title: str, description: str, width: int = 720, name_width: int = 130
) -> Markup:
    """Horizontal bars from 0, each with its figure, and a line where its limit is."""
    row = 24
    height = row * len(bars) + 8
    left, right = name_width, width - 170
    longest = max([bar.value for bar in bars] + [1e-300])
    # A limit far beyond every bar would make dots of them all.
    limits = [bar.limit for bar in bars if bar.limit is not None and bar.limit <= 4 * longest]
    top = max([longest, *limits])
    parts = []
    for index, bar in enumerate(bars):
        y = 4 + row * index
        length = max(bar.value / top * (right - left), 1.0 if bar.value else 0.0)
        name = bar.name if len(bar.name) * 7 <= name_width else bar.name[: name_width // 7] + "…"
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y + 16}">{escape(name)}</text>')
        parts.append(
            f'<rect class="bar {escape(bar.tone)}" x="{left}" y="{y + 4}" width="{length:.1f}"'
            f' height="{row - 8}" rx="2"><title>{escape(bar.name)}: {escape(bar.label)}</title>'
            "</rect>"
        )
        edge = left + length
        if bar.limit is not None and bar.limit <= top:
            at = left + bar.limit / top * (right - left)
            parts.append(f'<path class="limit" d="M{at:.1f} {y + 1}V{y + row - 1}"/>')
            edge = max(edge, at)
        parts.append(
            f'<text class="tick" x="{edge + 6:.1f}" y="{y + 16}">{escape(bar.label)}</text>'
        )
    return _svg(parts, title, description, width, height)


def sparkline(values: Sequence[float | None], *, title: str, width: int = 180) -> Markup:
    """A trend as small as a word; None leaves a gap. The newest value has a dot."""
    height = 32
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    spread = (high - low) or 1.0
    step = (width - 8) / max(len(values) - 1, 1)
    parts, pen = [], "M"
    last = (0.0, 0.0)
    for index, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        last = (4 + step * index, height - 5 - (value - low) / spread * (height - 10))
        parts.append(f"{pen}{last[0]:.1f} {last[1]:.1f}")
        pen = "L"
    body = [
        f'<path class="line s0" d="{"".join(parts)}"/>',
        f'<circle class="mark s0" cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="3"/>',
    ]
    words = f"{len(known)} nights, from {known[0]:.4g} to {known[-1]:.4g}"
    return _svg(body, title, words, width, height, "spark")
