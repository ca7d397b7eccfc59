"""Plots as PNG, by matplotlib, for where a picture file is wanted; the page draws its own."""

from pathlib import Path
from typing import Any

from pytest_longctx.errors import UsageError
from pytest_longctx.reports.plots import Axis, Bars, Chart, Grid, Plot

_MARKS = "os^D"


def write(plot: Plot, path: Path) -> None:
    """Draw *plot* into *path*. Raises `UsageError` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("PNG files need matplotlib, which is not installed: pip install matplotlib") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(plot.title, fontsize=10)
    match plot:
        case Chart():
            _chart(plot, axes)
        case Bars():
            _bars(plot, axes)
        case Grid():
            _grid(plot, axes)
    figure.savefig(path, dpi=150)


def _chart(plot: Chart, axes: Any) -> None:
    _name(axes, plot.x, plot.y)
    for i, one in enumerate(plot.series):
        style = {"linestyle": "-"} if one.line else {"linestyle": "", "marker": _MARKS[i % 4]}
        axes.plot(*zip(*one.points, strict=True), label=one.name, **style)
    axes.legend()


def _bars(plot: Bars, axes: Any) -> None:
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


def _grid(plot: Grid, axes: Any) -> None:
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
