"""
Plots and tables as values, independent of the output format, and their rendering as SVG and PNG.

SVG plots fit the width of a phone and are coloured by CSS classes, so that one page can be light or dark. PNG files are
drawn by matplotlib.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, NamedTuple

from pytest_longctx.errors import UsageError


class Axis(NamedTuple):
    """One axis: its label, and whether it is logarithmic."""

    label: str
    log: bool = False


class Series(NamedTuple):
    """Points of one kind. *line* joins them and marks a law rather than measurements."""

    name: str
    points: tuple[tuple[float, float], ...]
    line: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Series over a common axis."""

    name: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]


class Segment(NamedTuple):
    """Part of a bar. *kind* is its index in the `kinds` of the chart."""

    start: float
    length: float
    kind: int = 0


class Bar(NamedTuple):
    """One bar: name, segments and the label at its end."""

    label: str
    segments: tuple[Segment, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """Bar chart of lengths, or of time spans, with one row for each bar."""

    name: str
    title: str
    axis: Axis
    rows: tuple[Bar, ...]
    kinds: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class Grid:
    """Heat map of shares from 0 to 1 by row and column. ``None`` means not observed."""

    name: str
    title: str
    x: Axis
    y: Axis
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]


Plot = Chart | Bars | Grid


class Table(NamedTuple):
    """The same figures as a table, for screen readers and for copying."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of a report."""

    title: str
    note: str
    plots: tuple[Plot, ...]
    table: Table


def short(value: float) -> str:
    """
    Format a number for an axis.

    >>> short(65536), short(10_000_000), short(0.05), short(0)
    ('65.5k', '10M', '0.05', '0')
    """
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"


STYLE = """
.plot text { font: 12px system-ui, sans-serif; fill: #1b1f24; }
.plot .rule { stroke: #d5d9de; }
.plot .edge { stroke: #6b7280; }
.plot .s0 { color: #1f5fa8; } .plot .s1 { color: #b3400e; } .plot .s2 { color: #2c6e49; } .plot .s3 { color: #7b3fa0; }
.plot .s4 { color: #8a5a00; } .plot .s5 { color: #5b6470; }
.plot .line { stroke: currentColor; fill: none; stroke-width: 2; }
.plot .line.s2 { stroke-dasharray: 7 4; } .plot .line.s3 { stroke-dasharray: 2 3; }
.plot .mark { stroke: currentColor; fill: currentColor; } .plot .mark.s3 { fill: none; stroke-width: 2; }
.plot .fill { fill: currentColor; } .plot .cell { fill: #1f5fa8; } .plot .none { fill: #e8eaed; }
@media (prefers-color-scheme: dark) {
.plot text { fill: #e6e8eb; } .plot .rule { stroke: #3a4048; } .plot .edge { stroke: #9aa2ad; }
.plot .s0 { color: #79b2f2; } .plot .s1 { color: #f5a071; } .plot .s2 { color: #7fcf9f; } .plot .s3 { color: #cf9df0; }
.plot .s4 { color: #e3b75a; } .plot .s5 { color: #b3bac4; }
.plot .cell { fill: #79b2f2; } .plot .none { fill: #2a2f36; }
}
"""

_WIDTH = 400
_HEIGHT = 240
_LEFT, _RIGHT, _TOP = 48, 12, 10
_MARKS = (
    "M{x} {y}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M{x} {y}m-4-4h8v8h-8z",
    "M{x} {y}m0-5l5 9h-10z",
    "M{x} {y}m0-5l5 5-5 5-5-5z",
)


_LEAST = 1e-9
"""Least value of a logarithmic axis: a figure of a file may be zero, negative or tiny."""


class _Scale:
    """Mapping of figures to positions, with round tick values."""

    def __init__(self, axis: Axis, values: Iterable[float], start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        seen = [value for value in values if value > 0 or not axis.log]
        low, high = (min(seen), max(seen)) if seen else (1.0, 1.0)
        if not axis.log:
            low, high = min(low, 0.0), high if high > _LEAST else 1.0
        self.low, self.high = self._at(low), self._at(high)
        room = (self.high - self.low or 1.0) * 0.04
        self.low -= room if axis.log else 0.0
        self.high += room

    def _at(self, value: float) -> float:
        return log10(max(value, _LEAST)) if self.axis.log else value

    def __call__(self, value: float) -> float:
        share = (self._at(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Return round tick values within the scale."""
        if self.axis.log:
            decades = self.high - self.low
            steps = range(1, 10) if decades < 0.7 else (1, 2, 5) if decades < 2.5 else (1,)
            tens = range(floor(self.low), ceil(self.high) + 1)
            return [
                step * 10.0**ten for ten in tens for step in steps if self.low <= log10(step * 10.0**ten) <= self.high
            ]
        step = 10.0 ** floor(log10(self.high / 4))
        step *= next(more for more in (1, 2, 5, 10) if self.high / (step * more) <= 5)
        return [step * i for i in range(floor(self.high / step) + 1)]


def paint(plot: Plot, *, alone: bool = False) -> str:
    """Return *plot* as an SVG element; with *alone*, as a complete file with its own styles."""
    height, body = _body(plot)
    inside = "".join(body)
    style = f"<style>{STYLE}</style>" if alone else ""
    title = escape(plot.title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {_WIDTH} {height}" role="img"'
        f' aria-label="{title}">{style}<title>{title}</title>{inside}</svg>'
    )


@singledispatch
def _body(plot: Plot) -> tuple[float, Iterator[str]]:
    raise TypeError(plot)


@_body.register
def _(plot: Chart) -> tuple[float, Iterator[str]]:
    legend = _TOP + _HEIGHT + 36
    x = _Scale(plot.x, (x for one in plot.series for x, _ in one.points), _LEFT, _WIDTH - _RIGHT)
    y = _Scale(plot.y, (y for one in plot.series for _, y in one.points), _HEIGHT, _TOP)
    return legend + 16 * ((len(plot.series) + 1) // 2), _chart(plot, x, y, legend)


def _chart(plot: Chart, x: _Scale, y: _Scale, legend: float) -> Iterator[str]:
    for tick in y.ticks():
        yield f'<path class="rule" d="M{_LEFT} {y(tick)}H{_WIDTH - _RIGHT}"/>'
        yield _text(_LEFT - 6, y(tick) + 4, short(tick), "end")
    yield from _axis(x, _HEIGHT)
    yield _text((_LEFT + _WIDTH) / 2, _HEIGHT + 34, f"{plot.x.label}; upwards {plot.y.label}", "middle")
    for i, one in enumerate(plot.series):
        places = list(dict.fromkeys((x(a), y(b)) for a, b in one.points))
        if one.line:
            yield f'<path class="line s{i}" d="M{"L".join(f"{a} {b}" for a, b in places)}"/>'
        else:
            marks = "".join(_MARKS[i % 4].format(x=a, y=b) for a, b in places)
            yield f'<path class="mark s{i}" d="{marks}"/>'
        left, line = _LEFT + 180 * (i % 2), legend + 16 * (i // 2)
        key = f"M{left - 14} {line}h16" if one.line else _MARKS[i % 4].format(x=left - 6, y=line)
        yield f'<path class="{"line" if one.line else "mark"} s{i}" d="{key}"/>{_text(left + 8, line + 4, one.name)}'


def _axis(x: _Scale, y: float) -> Iterator[str]:
    yield f'<path class="edge" d="M{x.start} {y}H{x.end}"/>'
    free = -100.0
    for tick in x.ticks():
        if x(tick) - free > 34:  # labels must not overlap
            yield _text(x(tick), y + 16, short(tick), "middle")
            free = x(tick)


@_body.register
def _(plot: Bars) -> tuple[float, Iterator[str]]:
    named = len(plot.kinds) > 1
    bottom = 34 * len(plot.rows) + 8
    ends = (one.start + one.length for row in plot.rows for one in row.segments)
    return bottom + 38 + 18 * named, _bars(plot, _Scale(plot.axis, ends, 4, _WIDTH - 20), bottom)


def _bars(plot: Bars, x: _Scale, bottom: float) -> Iterator[str]:
    for i, row in enumerate(plot.rows):
        top = 34 * i + 4
        yield _text(4, top + 12, row.label) + _text(_WIDTH - 4, top + 12, row.text, "end")
        yield f'<path class="rule" d="M4 {top + 25}H{_WIDTH - 20}"/>'
        for j in range(len(plot.kinds)):
            its = (one for one in row.segments if one.kind == j)
            stretches = dict.fromkeys((x(one.start), max(x(one.start + one.length) - x(one.start), 1)) for one in its)
            d = "".join(f"M{left} {top + 18}h{width:.3g}v14h-{width:.3g}z" for left, width in stretches)
            yield f'<path class="fill s{j}" d="{d}"/>' if d else ""
    yield from _axis(x, bottom)
    yield _text(_WIDTH / 2, bottom + 33, plot.axis.label, "middle")
    used = {one.kind for row in plot.rows for one in row.segments} if len(plot.kinds) > 1 else set()
    for place, i in enumerate(sorted(used)):
        left, line = 8 + 120 * place, bottom + 50
        yield f'<path class="fill s{i}" d="M{left} {line - 9}h10v10h-10z"/>{_text(left + 15, line, plot.kinds[i])}'


@_body.register
def _(plot: Grid) -> tuple[float, Iterator[str]]:
    return 26 * len(plot.rows) + 56, _grid(plot)


def _grid(plot: Grid) -> Iterator[str]:
    width = (_WIDTH - _LEFT - _RIGHT) / len(plot.columns)
    for i, (name, cells) in enumerate(zip(plot.rows, plot.cells, strict=True)):
        top = 26 * i + 4
        yield _text(_LEFT - 6, top + 17, name, "end")
        for j, share in enumerate(cells):
            left = round(_LEFT + width * j, 1)
            kind = 'none"' if share is None else f'cell" fill-opacity="{0.06 + 0.4 * share:.2f}"'
            yield f'<rect class="{kind} x="{left}" y="{top}" width="{width - 2:.1f}" height="24"/>'
            if share is not None and width > 26:
                yield _text(left + width / 2, top + 17, f"{100 * share:.0f}", "middle")
    bottom = 26 * len(plot.rows) + 4
    for j, name in enumerate(plot.columns):
        yield _text(_LEFT + width * (j + 0.5), bottom + 16, name, "middle")
    yield _text(_WIDTH / 2, bottom + 40, f"{plot.x.label}; downwards {plot.y.label}", "middle")


def _text(x: float, y: float, label: str, anchor: str = "") -> str:
    side = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{side}>{escape(label)}</text>' if label else ""


_PNG_MARKS = "os^D"


def write(plot: Plot, path: Path) -> None:
    """Write *plot* to *path* as PNG. Raises `UsageError` if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("PNG files need matplotlib, which is not installed: pip install matplotlib") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(plot.title, fontsize=10)
    match plot:
        case Chart():
            _png_chart(plot, axes)
        case Bars():
            _png_bars(plot, axes)
        case Grid():
            _png_grid(plot, axes)
    figure.savefig(path, dpi=150)


def _png_chart(plot: Chart, axes: Any) -> None:
    _name(axes, plot.x, plot.y)
    for i, one in enumerate(plot.series):
        style = {"linestyle": "-"} if one.line else {"linestyle": "", "marker": _PNG_MARKS[i % 4]}
        axes.plot(*zip(*one.points, strict=True), label=one.name, **style)
    axes.legend()


def _png_bars(plot: Bars, axes: Any) -> None:
    axes.set_xlabel(plot.axis.label)
    for i, kind in enumerate(plot.kinds):
        spans = [(j, one) for j, row in enumerate(plot.rows) for one in row.segments if one.kind == i]
        rows, starts, lengths = (
            ([*some] for some in zip(*((j, one.start, one.length) for j, one in spans), strict=True))
            if spans
            else ([], [], [])
        )
        axes.barh(rows, lengths, left=starts, label=kind)
    axes.set_yticks(range(len(plot.rows)), [f"{row.label} {row.text}" for row in plot.rows], fontsize=7)
    axes.invert_yaxis()
    if len(plot.kinds) > 1:
        axes.legend()


def _png_grid(plot: Grid, axes: Any) -> None:
    axes.imshow(
        [[float("nan") if share is None else share for share in row] for row in plot.cells],
        vmin=0,
        vmax=1,
        aspect="auto",
    )
    axes.set_xticks(range(len(plot.columns)), plot.columns)
    axes.set_yticks(range(len(plot.rows)), plot.rows)
    _name(axes, Axis(plot.x.label), Axis(plot.y.label))


def _name(axes: Any, x: Axis, y: Axis) -> None:
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.set_xscale("log" if x.log else "linear")
    axes.set_yscale("log" if y.log else "linear")
