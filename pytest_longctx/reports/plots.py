"""Plots and tables as values, independent of the output format. `svg` and `png` draw them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Axis(NamedTuple):
    """One axis: its label, and whether it is logarithmic."""

    label: str
    log: bool = False


class Series(NamedTuple):
    """Points of one kind. *line* joins them and marks a law or a gauge rather than single measurements."""

    name: str
    points: tuple[tuple[float, float], ...]
    line: bool = False
    spread: tuple[tuple[float, float, float], ...] = ()
    """For repeated measurements: x, least and most value."""


class Part(NamedTuple):
    """Series over one y axis."""

    y: Axis
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Parts below each other over a common x axis. *small* omits the legend and most of the frame."""

    name: str
    title: str
    x: Axis
    parts: tuple[Part, ...]
    small: bool = False


class Segment(NamedTuple):
    """A part of a bar. *kind* is its index in the `kinds` of the chart."""

    start: float
    length: float
    kind: int = 0


class Bar(NamedTuple):
    """One bar: name, segments and the label at its end."""

    label: str
    segments: tuple[Segment, ...]
    text: str = ""
    below: tuple[Segment, ...] = ()
    """A second bar of the same row, such as what was logged below what was predicted."""


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
    """Map of shares from 0 to 1: one row of cells for each label and text. ``None`` means not observed."""

    name: str
    title: str
    x: Axis
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    texts: tuple[str, ...]


Plot = Chart | Bars | Grid


class Table(NamedTuple):
    """The figures of the plot as a table, for screen readers and for copying."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of a report. *key* is its anchor, stable between runs; *folded* hides the panel at first."""

    title: str
    note: str
    plots: tuple[Plot, ...]
    table: Table
    key: str = ""
    folded: bool = False


def short(value: float) -> str:
    """
    Return a number as text for the axis of a plot.

    >>> short(65536), short(10_000_000), short(0.05), short(0)
    ('65.5k', '10M', '0.05', '0')
    """
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"
