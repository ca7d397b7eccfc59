"""Plots and tables as values: what is shown, before anybody asks in which format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Axis(NamedTuple):
    """One direction: what runs along it, and whether each step multiplies."""

    label: str
    log: bool = False


class Series(NamedTuple):
    """Points of one kind; *line* joins them, and stands for a law rather than for measurements."""

    name: str
    points: tuple[tuple[float, float], ...]
    line: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Figures over a common axis."""

    name: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]


class Segment(NamedTuple):
    """A stretch of a bar; *kind* is its place in the bars' `kinds`."""

    start: float
    length: float
    kind: int = 0


class Bar(NamedTuple):
    """One row of bars: its name, its stretches, and what is written at its end."""

    label: str
    segments: tuple[Segment, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """Lengths, or stretches of time, one row each."""

    name: str
    title: str
    axis: Axis
    rows: tuple[Bar, ...]
    kinds: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class Grid:
    """Shares from 0 to 1 by row and column; None: not observed."""

    name: str
    title: str
    x: Axis
    y: Axis
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]


Plot = Chart | Bars | Grid


class Table(NamedTuple):
    """The same figures for those who do not see a plot, and for those who copy them."""

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
    A number for an axis.

    >>> short(65536), short(10_000_000), short(0.05), short(0)
    ('65.5k', '10M', '0.05', '0')
    """
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"
