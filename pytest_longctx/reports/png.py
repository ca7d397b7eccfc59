"""Plots as PNG files, drawn by matplotlib."""

from pathlib import Path
from typing import Any, Final

from pytest_longctx.errors import UsageError
from pytest_longctx.reports.plots import Axis, Bars, Chart, Grid, Part, Plot, Segment

_MARKS: Final = "os^D"


def write(plot: Plot, path: Path) -> None:
    """Write *plot* as a PNG file to *path*. Raises `UsageError` if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("PNG files need matplotlib, which is not installed: pip install matplotlib") from None
    parts = len(plot.parts) if isinstance(plot, Chart) else 1
    figure = Figure(figsize=(7, 4.5 + 2 * (parts - 1)), layout="constrained")
    all_axes = figure.subplots(parts, sharex=True, squeeze=False)[:, 0]
    all_axes[0].set_title(plot.title, fontsize=10)
    match plot:
        case Chart():
            for axes, part in zip(all_axes, plot.parts, strict=True):
                _chart(part, axes)
            _name(all_axes[-1], plot.x, plot.parts[-1].y)
        case Bars():
            _bars(plot, all_axes[0])
        case Grid():
            _grid(plot, all_axes[0])
    figure.savefig(path, dpi=150)


def _chart(part: Part, axes: Any) -> None:
    axes.set_ylabel(part.y.label)
    axes.set_yscale("log" if part.y.log else "linear")
    for i, one in enumerate(part.series):
        if not one.points:
            continue
        style = {"linestyle": "-"} if one.line else {"linestyle": "", "marker": _MARKS[i % 4]}
        axes.plot(*zip(*one.points, strict=True), label=one.name, **style)
        for x, low, high in one.spread:
            axes.plot((x, x), (low, high), color="black", linewidth=1)
    axes.legend()


def _bars(plot: Bars, axes: Any) -> None:
    axes.set_xlabel(plot.axis.label)
    for i, kind in enumerate(plot.kinds):
        spans: list[tuple[float, Segment]] = [
            (j, one) for j, row in enumerate(plot.rows) for one in row.segments if one.kind == i
        ]
        spans += [(j + 0.35, one) for j, row in enumerate(plot.rows) for one in row.below if one.kind == i]
        rows, starts, lengths = (
            ([*some] for some in zip(*((j, one.start, one.length) for j, one in spans), strict=True))
            if spans
            else ([], [], [])
        )
        axes.barh(rows, lengths, height=0.3, left=starts, label=kind)
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
    axes.set_xticks(range(len(plot.columns)), plot.columns, fontsize=7)
    axes.set_yticks(range(len(plot.rows)), [f"{row} {text}" for row, text in zip(plot.rows, plot.texts, strict=True)])
    axes.set_xlabel(plot.x.label)


def _name(axes: Any, x: Axis, y: Axis) -> None:
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.set_xscale("log" if x.log else "linear")
    axes.set_yscale("log" if y.log else "linear")
