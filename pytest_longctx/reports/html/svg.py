"""
Plots as inline SVG.

A plot fits the width of a phone, needs no script and prints. CSS classes colour it, so that one page can be light or dark.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch
from html import escape
from itertools import accumulate
from math import ceil, floor, log10
from typing import Final

from pytest_longctx.reports.plots import Axis, Bars, Chart, Grid, Part, Plot, Segment, Series, short

STYLE: Final = """
.plot text { font: 12px system-ui, sans-serif; fill: #1b1f24; } .plot .dim { fill: #4b5563; }
.plot .rule { stroke: #dfe3e8; fill: none; } .plot .edge { stroke: #6b7280; fill: none; }
.plot .s0 { color: #1f5fa8; } .plot .s1 { color: #b3400e; } .plot .s2 { color: #2c6e49; } .plot .s3 { color: #7b3fa0; }
.plot .s4 { color: #8a5a00; } .plot .s5 { color: #5b6470; }
.plot .line { stroke: currentColor; fill: none; stroke-width: 2; }
.plot .line.s2 { stroke-dasharray: 7 4; } .plot .line.s3 { stroke-dasharray: 2 3; } .plot .thin { stroke-width: 1.5; }
.plot .mark { stroke: currentColor; fill: currentColor; } .plot .mark.s3 { fill: none; stroke-width: 2; }
.plot .spread { stroke: currentColor; stroke-width: 1.5; fill: none; }
.plot .fill { fill: currentColor; } .plot .cell { fill: #1d6b3a; } .plot .lost { fill: #a4161a; } .plot .none { fill: #e8eaed; }
@media (prefers-color-scheme: dark) {
.plot text { fill: #e6e8eb; } .plot .dim { fill: #aab2bd; } .plot .rule { stroke: #2f353d; } .plot .edge { stroke: #9aa2ad; }
.plot .s0 { color: #79b2f2; } .plot .s1 { color: #f5a071; } .plot .s2 { color: #7fcf9f; } .plot .s3 { color: #cf9df0; }
.plot .s4 { color: #e3b75a; } .plot .s5 { color: #b3bac4; }
.plot .cell { fill: #4fa873; } .plot .lost { fill: #ff9a94; } .plot .none { fill: #2a2f36; }
}
"""

_WIDTH: Final = 400
_SMALL: Final = 220
_LEFT, _RIGHT = 44, 14
_HEIGHTS: Final = (190, 90)
"""Heights of the first and of each further part of a chart."""
_SMALL_HEIGHT: Final = 56
_MARKS: Final = (
    "M{x} {y}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M{x} {y}m-4-4h8v8h-8z",
    "M{x} {y}m0-5l5 9h-10z",
    "M{x} {y}m0-5l5 5-5 5-5-5z",
)
_COLOURS: Final = 6
_LEAST: Final = 1e-9
"""Least value of a logarithmic axis: a figure of a file may be zero, negative or tiny."""


class _Scale:
    """Mapping of figures to positions of an SVG plot, with round tick values."""

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
        """Return round tick values of an SVG plot's axis within the scale."""
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
    """Return *plot* as an SVG element, or, with *alone*, as a complete SVG file with its own styles."""
    width, height, body = _body(plot)
    inside = "".join(body)
    style = f"<style>{STYLE}</style>" if alone else ""
    title = escape(plot.title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {width} {height:g}" role="img"'
        f' aria-label="{title}">{style}<title>{title}</title>{inside}</svg>'
    )


@singledispatch
def _body(plot: Plot) -> tuple[float, float, Iterator[str]]:
    raise TypeError(plot)


@_body.register
def _(plot: Chart) -> tuple[float, float, Iterator[str]]:
    return _small(plot) if plot.small else _full(plot)


def _full(plot: Chart) -> tuple[float, float, Iterator[str]]:
    heights = [_HEIGHTS[min(i, 1)] for i in range(len(plot.parts))]
    bottoms = [total + 26 * (i + 1) for i, total in enumerate(accumulate(heights))]
    x = _Scale(plot.x, (x for part in plot.parts for one in part.series for x, _ in one.points), _LEFT, _WIDTH - _RIGHT)
    series = [one for part in plot.parts for one in part.series]
    named = [(i, one) for i, one in enumerate(series) if one.points]
    end = bottoms[-1] + 44

    def body() -> Iterator[str]:
        first = 0
        for part, bottom, height in zip(plot.parts, bottoms, heights, strict=True):
            yield from _part(part, x, bottom, height, first)
            first += len(part.series)
        yield from _ticks(x, bottoms[-1])
        yield _text((_LEFT + _WIDTH) / 2, bottoms[-1] + 32, _named(plot.x), "middle")
        for place, (i, one) in enumerate(named):
            yield _legend(one, i, 22 + 184 * (place % 2), end + 12 + 18 * (place // 2))

    return _WIDTH, end + 18 * ((len(named) + 1) // 2) + 6, body()


def _named(axis: Axis) -> str:
    return f"{axis.label}, log scale" if axis.log else axis.label


def _part(part: Part, x: _Scale, bottom: float, height: float, first: int) -> Iterator[str]:
    values = [
        *(y for one in part.series for _, y in one.points),
        *(end for one in part.series for _, *ends in one.spread for end in ends),
    ]
    y = _Scale(part.y, values, bottom, bottom - height)
    yield _text(4, bottom - height - 8, _named(part.y))
    free = bottom + 100
    for tick in y.ticks():
        yield f'<path class="rule" d="M{_LEFT} {y(tick)}H{_WIDTH - _RIGHT}"/>'
        if free - y(tick) > 13:  # labels must not overlap
            yield _text(_LEFT - 6, y(tick) + 4, short(tick), "end")
            free = y(tick)
    yield f'<path class="edge" d="M{_LEFT} {bottom - height:g}V{bottom:g}H{_WIDTH - _RIGHT}"/>'
    for i, one in enumerate(part.series, first):
        yield from _drawn(one, i, x, y)


def _drawn(one: Series, i: int, x: _Scale, y: _Scale) -> Iterator[str]:
    places = list(dict.fromkeys((x(a), y(b)) for a, b in one.points))
    if not places:
        return
    if one.line:
        yield f'<path class="line s{i % _COLOURS}" d="M{"L".join(f"{a} {b}" for a, b in places)}"/>'
        return
    ends = "".join(f"M{x(a) - 3:.1f} {y(low)}h6m-3 0V{y(high)}m-3 0h6" for a, low, high in one.spread)
    yield f'<path class="spread s{i % _COLOURS}" d="{ends}"/>' if ends else ""
    marks = "".join(_MARKS[i % 4].format(x=a, y=b) for a, b in places)
    yield f'<path class="mark s{i % _COLOURS}" d="{marks}"/>'


def _legend(one: Series, i: int, left: float, line: float) -> str:
    sign = f"M{left - 14} {line}h16" if one.line else _MARKS[i % 4].format(x=left - 6, y=line)
    kind = "line" if one.line else "mark"
    return f'<path class="{kind} s{i % _COLOURS}" d="{sign}"/>{_text(left + 8, line + 4, one.name)}'


def _small(plot: Chart) -> tuple[float, float, Iterator[str]]:
    (part, *_), top = plot.parts, 24
    bottom = top + _SMALL_HEIGHT
    x = _Scale(plot.x, (x for one in part.series for x, _ in one.points), 2, _SMALL - 2)
    y = _Scale(part.y, (y for one in part.series for _, y in one.points), bottom, top)
    top_value = max((y for one in part.series for _, y in one.points), default=0.0)

    def body() -> Iterator[str]:
        yield _text(2, 14, part.y.label)
        yield _text(_SMALL - 2, 14, f"most {short(top_value)}", "end", "dim")
        yield f'<path class="edge" d="M2 {bottom}H{_SMALL - 2}"/>'
        names = list(dict.fromkeys(one.name for one in part.series))
        for one in part.series:
            places = list(dict.fromkeys((x(a), y(b)) for a, b in one.points))
            drawn = f"M{'L'.join(f'{a} {b}' for a, b in places)}" + ("h1" if len(places) == 1 else "")
            yield f'<path class="line thin s{names.index(one.name) % _COLOURS}" d="{drawn}"/>'
        yield _text(2, bottom + 14, "0", "", "dim")
        yield _text(_SMALL - 2, bottom + 14, f"{short(x.high / 1.04)} {plot.x.label}", "end", "dim")

    return _SMALL, bottom + 20, body()


def _ticks(x: _Scale, y: float) -> Iterator[str]:
    free = -100.0
    for tick in x.ticks():
        if x(tick) - free > 34:  # labels must not overlap
            yield _text(x(tick), y + 16, short(tick), "middle")
            free = x(tick)


_LEGEND_LETTER: Final = 6.6
"""Width of a letter of a legend in pixels, rounded up."""


@_body.register
def _(plot: Bars) -> tuple[float, float, Iterator[str]]:
    bottom = 38 * len(plot.rows) + 6
    parts = [one for row in plot.rows for one in (*row.segments, *row.below)]
    ends = (one.start + one.length for one in parts)
    used = sorted({one.kind for one in parts}) if len(plot.kinds) > 1 else []
    places = _legend_places([plot.kinds[i] for i in used])
    lines = (places[-1][1] + 1) if places else 0
    return _WIDTH, bottom + 40 + 18 * lines, _bars(plot, _Scale(plot.axis, ends, 4, _WIDTH - 20), bottom, used, places)


def _legend_places(names: Sequence[str]) -> list[tuple[float, int]]:
    """Return the left edge and the line of each name in the legend of an SVG plot."""
    found: list[tuple[float, int]] = []
    left, line = 8.0, 0
    for name in names:
        width = 26 + _LEGEND_LETTER * len(name)
        if found and left + width > _WIDTH:
            left, line = 8.0, line + 1
        found.append((left, line))
        left += width
    return found


def _bars(
    plot: Bars, x: _Scale, bottom: float, used: Sequence[int], places: Sequence[tuple[float, int]]
) -> Iterator[str]:
    for i, row in enumerate(plot.rows):
        top = 38 * i + 4
        yield _text(4, top + 12, row.label) + _text(_WIDTH - 4, top + 12, row.text, "end")
        yield f'<path class="rule" d="M4 {top + 25}H{_WIDTH - 20}"/>'
        if row.below:
            yield from _bar(row.segments, x, top + 17, 8)
            yield from _bar(row.below, x, top + 26, 8)
        else:
            yield from _bar(row.segments, x, top + 18, 14)
    yield f'<path class="edge" d="M{x.start} {bottom}H{x.end}"/>'
    yield from _ticks(x, bottom)
    yield _text(_WIDTH / 2, bottom + 33, _named(plot.axis), "middle")
    for i, (left, line) in zip(used, places, strict=True):
        y = bottom + 51 + 18 * line
        sign = f'<path class="fill s{i % _COLOURS}" d="M{left:g} {y - 9}h10v10h-10z"/>'
        yield f"{sign}{_text(left + 15, y, plot.kinds[i])}"


def _bar(segments: Sequence[Segment], x: _Scale, top: float, height: float) -> Iterator[str]:
    for kind in sorted({one.kind for one in segments}):
        its = (one for one in segments if one.kind == kind)
        stretches = dict.fromkeys((x(one.start), max(x(one.start + one.length) - x(one.start), 1)) for one in its)
        d = "".join(f"M{left} {top}h{width:.3g}v{height}h-{width:.3g}z" for left, width in stretches)
        yield f'<path class="fill s{kind % _COLOURS}" d="{d}"/>'


@_body.register
def _(plot: Grid) -> tuple[float, float, Iterator[str]]:
    return _WIDTH, 38 * len(plot.rows) + 40, _grid(plot)


def _grid(plot: Grid) -> Iterator[str]:
    width = (_WIDTH - 8) / len(plot.columns)
    for i, (name, cells, text) in enumerate(zip(plot.rows, plot.cells, plot.texts, strict=True)):
        top = 38 * i + 4
        yield _text(4, top + 12, name) + _text(_WIDTH - 4, top + 12, text, "end")
        for j, share in enumerate(cells):
            left = round(4 + width * j, 1)
            yield f'<rect class="{_kind(share)}" x="{left}" y="{top + 18}" width="{width - 1:.1f}" height="14"/>'
            if share is not None and 0 < share < 1:
                lost = 14 * (1 - share)
                yield f'<rect class="lost" x="{left}" y="{top + 18}" width="{width - 1:.1f}" height="{lost:.1f}"/>'
    bottom = 38 * len(plot.rows) + 4
    for j, name in enumerate(plot.columns):
        yield _text(4 + width * (j + 0.5), bottom + 12, name, "middle")
    yield _text(_WIDTH / 2, bottom + 30, plot.x.label, "middle")


def _kind(share: float | None) -> str:
    return "none" if share is None else "cell" if share > 0 else "lost"


def _text(x: float, y: float, label: str, anchor: str = "", kind: str = "") -> str:
    side = f' text-anchor="{anchor}"' if anchor else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{side}{named}>{escape(label)}</text>' if label else ""
