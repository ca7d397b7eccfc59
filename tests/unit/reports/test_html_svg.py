"""Plots are well formed and stay within their frame, whatever the figures; PNG files are written."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.reports import png
from pytest_longctx.reports.html import svg
from pytest_longctx.reports.plots import Axis, Bar, Bars, Chart, Grid, Part, Segment, Series

FIGURES = st.floats(1e-6, 1e12)
POINTS = st.lists(st.tuples(FIGURES, FIGURES), max_size=20).map(tuple)
AXES = st.builds(Axis, st.text("a<&", max_size=5), st.booleans())
SPREAD = st.lists(st.tuples(FIGURES, FIGURES, FIGURES), max_size=3).map(tuple)


@st.composite
def series(draw):
    points = draw(POINTS)
    spread = tuple((x, y, y * 2) for x, y in points[:3])
    return Series(draw(st.text("a<", max_size=3)), points, draw(st.booleans()), spread)


PARTS = st.builds(Part, AXES, st.lists(series(), min_size=1, max_size=7).map(tuple))
CHARTS = st.builds(
    Chart,
    st.just("c"),
    st.text("a<&\"'", max_size=9),
    AXES,
    st.lists(PARTS, min_size=1, max_size=3).map(tuple),
    st.booleans(),
)
SEGMENTS = st.lists(st.builds(Segment, st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 8)), max_size=9).map(tuple)
BARS = st.builds(
    Bars,
    st.just("b"),
    st.just("t"),
    st.just(Axis("s")),
    st.lists(st.builds(Bar, st.text("a<", max_size=5), SEGMENTS, st.just(""), SEGMENTS), min_size=1, max_size=5).map(
        tuple
    ),
    st.just(tuple("a longer name of a term " + str(i) for i in range(9))),
)
GRID = Grid("g", "t", Axis("x"), ("1", "2", "3"), ("3 <tokens>",), ((None, 0.5, 1.0),), ("3 of 4",))


@given(CHARTS | BARS | st.just(GRID), st.booleans())
def test_any_plot_is_well_formed_and_stays_within_its_frame(plot, alone):
    root = ET.fromstring(svg.paint(plot, alone=alone))
    assert root.get("role") == "img"
    assert root.get("aria-label") == plot.title
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        assert -1 <= float(text.get("x", "")) <= width + 1
        assert 0 <= float(text.get("y", "")) <= height
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        for x, y in re.findall(r"[ML](-?[\d.e+]+) (-?[\d.e+]+)", path.get("d", "")):
            assert -4 <= float(x) <= width + 1
            assert -1 <= float(y) <= height


def test_the_label_of_an_axis_stands_at_it_and_names_a_log_scale():
    chart = Chart(
        "c", "t", Axis("tokens", log=True), (Part(Axis("seconds", log=True), (Series("a", ((1, 2), (9, 4))),)),)
    )
    root = ET.fromstring(svg.paint(chart))
    at = {
        text.text: (float(text.get("x", "")), float(text.get("y", "")))
        for text in root.iter("{http://www.w3.org/2000/svg}text")
    }
    assert at["seconds, log scale"][1] < at["2"][1] < at["tokens, log scale"][1]


def test_plots_become_png(tmp_path):
    pytest.importorskip("matplotlib")
    points = Series("a", ((1, 2), (3, 4)), spread=((1, 1.5, 2.5),))
    parts = (Part(Axis("y"), (points, Series("none", ()))), Part(Axis("z", log=True), (points,)))
    chart = Chart("c", "t", Axis("x", log=True), parts)
    bars = Bars(
        "b", "t", Axis("s"), (Bar("one", (Segment(0, 1), Segment(2, 3, 1)), "", (Segment(0, 2),)),), ("x", "y", "none")
    )
    for plot in (chart, bars, GRID):
        png.write(plot, tmp_path / f"{plot.name}.png")
        assert (tmp_path / f"{plot.name}.png").read_bytes().startswith(b"\x89PNG")
