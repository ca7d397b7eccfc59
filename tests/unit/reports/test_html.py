"""The page and its plots: their contents, and well-formed output for all figures."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import cli, read_results
from pytest_longctx.reports import html, plots
from pytest_longctx.reports.panels import panels
from pytest_longctx.reports.plots import Axis, Bar, Bars, Chart, Grid, Segment, Series
from tests.unit.factories import booted, results, verdict

REAL = Path(__file__).parents[3] / "docs/results"
SELF_CLOSING = ("li", "tr", "td", "option")
VOID = ("meta", "link", "input", "br", "hr", "img", "rect", "path")


class Strict(HTMLParser):
    """Records unclosed elements, ids, and everything that a browser would load."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.fetched += [found[name] for name in ("src", "href", "data", "srcset") if name in found]
        if tag not in (*VOID, *SELF_CLOSING):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in SELF_CLOSING:
            assert self.open.pop() == tag


def read(page):
    parser = Strict()
    parser.feed(page)
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids))
    return parser


@pytest.mark.parametrize("path", sorted(REAL.rglob("results.jsonl")), ids=lambda path: path.parent.name)
def test_the_pages_of_real_runs_are_whole_and_fetch_nothing(path):
    run = read_results(path)
    page = html.page(run)
    fetched = read(page).fetched
    assert all(address.startswith(("#", "data:")) for address in fetched)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest", page)
    assert all(row["finding"] in page for row in run.verdicts)
    assert all(boot["deployment"] in page for boot in run.boots)


def test_the_committed_report_is_the_one_of_its_results():
    """After a change of the page: ``longctx report docs/results/vllm-0.32.0-cpu/results.jsonl -o .../report.html``."""
    folder = REAL / "vllm-0.32.0-cpu"
    assert (folder / "report.html").read_text(encoding="utf-8") == html.page(read_results(folder / "results.jsonl"))


def test_nothing_in_a_result_becomes_markup():
    evil = '<script>alert("x")</script>'
    row = {**verdict(word="broken", ttft_s=1.0), "why": evil, "said": evil, "title": evil, "source": evil}
    page = html.page(results(row, boots=[booted(evil, outcome="dies", said=evil, figures={"concurrency": 1.0})]))
    assert evil not in page
    assert page.count("<script>") == 1
    read(page)


def test_a_failure_has_its_cause_its_words_and_the_command_to_repeat():
    rows = [
        {**verdict(name, word="broken"), "why": "outcome: dies", "said": "its last words"}
        for name in ("TT-0001", "TT-0002")
    ]
    (one,) = html.failures(results(*rows, verdict("TT-0003")))
    assert (one["cause"], one["excerpt"], one["ids"]) == ("outcome: dies", "its last words", ["TT-0001", "TT-0002"])
    assert one["again"][0] == (
        "pytest 'test_x.py::test_x[TT-0001-tiny]' --backend=vllm --longctx-hardware=cpu --longctx-seed=7"
    )


SUITE = "context_length/test_length_is_served.py"


@pytest.mark.parametrize(
    ("root", "test", "chosen"),
    [
        (
            "/a",
            f"suites/{SUITE}::test_length_is_served[LC-0001-tiny]",
            "--pyargs pytest_longctx.suites -k '[LC-0001-tiny]'",
        ),
        (
            "/a",
            f"../site/{SUITE}::test_length_is_served[LC-0001-tiny]",
            "--pyargs pytest_longctx.suites -k '[LC-0001-tiny]'",
        ),
        ("/a", f"{SUITE}::test_length_is_served", "--pyargs pytest_longctx.suites -k test_length_is_served"),
        ("/a b", "tests/test_mine.py::test_mine[tiny]", "'/a b/tests/test_mine.py::test_mine[tiny]'"),
        ("", "tests/test_mine.py::test_mine", "tests/test_mine.py::test_mine"),
    ],
)
def test_the_command_to_repeat_can_be_typed_in_any_folder(root, test, chosen):
    header = {"options": ["--backend=vllm", "--longctx-data=/a b/ours"], "root": root, "seed": 7}
    message = html.again(header, {"test": test, "server": {}})
    assert message == f"pytest {chosen} --backend=vllm '--longctx-data=/a b/ours' --longctx-seed=7"


def test_a_boot_that_fails_as_documented_is_no_failure():
    boot = booted(outcome="refuses", signature="kv-cache-too-small", explained="because\n  try      more memory")
    (expected,) = html.failures(results(verdict(), boots=[boot]))
    assert (expected["word"], expected["excerpt"]) == ("holds", boot["explained"])
    (alone, _) = html.failures(results(verdict(word="broken"), boots=[boot]))
    assert alone["word"] == "broken"


def titles(run):
    return [panel.title for panel in panels(run)]


def test_a_panel_is_shown_only_where_its_rows_are():
    assert titles(results(verdict())) == []
    boots = [booted(started_s=100.0, figures={"concurrency": 2.0, "weights_gib": 1.0})]
    lengths = [verdict("TT-0001", ttft_s=1.0, prompt_tokens=10), verdict("TT-0002", ttft_s=3.0, prompt_tokens=20)]
    vitals = [{"deployment": "tiny", "at_s": 100.0 + i, "figures": {"running": i, "waiting": None}} for i in range(3)]
    found = [{"deployment": "tiny", "prompt_tokens": 10, "depth": depth, "score": 1.0} for depth in (0.0, 0.5)]
    run = results(*lengths, boots=boots, vitals=vitals, retrievals=found)
    assert titles(run) == [
        "Time and rates over length: tiny",
        "KV-cache capacity",
        "Memory by term",
        "Timeline",
        "Vitals",
        "Retrieval: tiny",
    ]
    read(html.page(run))


def panel(run, title):
    (found,) = (panel for panel in panels(run) if panel.title == title)
    return found


def test_time_over_length_shows_the_law_the_roofline_and_what_was_documented():
    first = verdict("TT-0001", ttft_s=1.0, prompt_tokens=1_000, peak_share=0.5)
    second = {**verdict("TT-0002", ttft_s=4.0, prompt_tokens=2_000), "bounds": {"ttft_s": {"reference": 5.0}}}
    found = panel(results(first, second), "Time and rates over length: tiny")
    assert [one.name for one in found.plots[0].series] == ["measured", "fitted law", "roofline", "documented"]
    assert [row[2:6] for row in found.table.rows] == [("1 s", "1 s", "0.5 s", ""), ("4 s", "4 s", "", "5 s")]


def test_capacity_is_held_against_its_prediction_and_a_refusal_counts_as_less_than_one():
    predicted = {
        "concurrency": 2.2,
        "longest_tokens": 300,
        "terms": [{"name": "weights", "size_bytes": 2**30, "host": False}],
    }
    served = booted("a", figures={"concurrency": 2.0, "kv_cache_tokens": 200.0}, predicted=predicted)
    refused = booted("b", outcome="refuses", figures={"kv_available_gib": 1.0, "kv_needed_gib": 4.0})
    run = results(boots=[served, refused])
    rows = panel(run, "KV-cache capacity").table.rows
    assert [row[2:5] for row in rows] == [("2.2x", "2x", "+10%"), ("", "0.25x", "")]
    assert ("a", "weights", "predicted", "1.00 GiB") in panel(run, "Memory by term").table.rows


def test_idle_time_is_what_neither_boots_nor_requests_cover():
    asked = [(10.0, 14.0), (12.0, 15.0), (20.0, 21.0)]
    requests = [{"deployment": "tiny", "started_s": start, "ended_s": end} for start, end in asked]
    found = panel(results(boots=[booted(started_s=1.0, seconds=4.0)], requests=requests), "Timeline")
    assert found.note == "20.0 s from the first boot to the last request, 10.0 s of it idle."
    assert found.table.rows == [("tiny", "0.0 s", "4.00 s", "3", "6.00 s")]


FIGURES = st.floats(1e-6, 1e12)
POINTS = st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=20).map(tuple)
AXES = st.builds(Axis, st.text("a<&", max_size=5), st.booleans())
CHARTS = st.builds(
    Chart,
    st.just("c"),
    st.text("a<&\"'", max_size=9),
    AXES,
    AXES,
    st.lists(st.builds(Series, st.text("a<", max_size=3), POINTS, st.booleans()), min_size=1, max_size=6).map(tuple),
)
SEGMENTS = st.lists(st.builds(Segment, st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 1)), max_size=9).map(tuple)
BARS = st.builds(
    Bars,
    st.just("b"),
    st.just("t"),
    st.just(Axis("s")),
    st.lists(st.builds(Bar, st.text("a<", max_size=5), SEGMENTS, st.just("")), min_size=1, max_size=5).map(tuple),
    st.just(("x", "y")),
)
GRID = Grid("g", "t", Axis("x"), Axis("y"), ("1", "2"), ("3",), ((None, 0.5),))


@given(CHARTS | BARS | st.just(GRID), st.booleans())
def test_any_plot_is_well_formed_and_stays_within_its_frame(plot, alone):
    root = ET.fromstring(plots.paint(plot, alone=alone))
    assert root.get("role") == "img"
    assert root.get("aria-label") == plot.title
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        assert -1 <= float(text.get("x", "")) <= width + 1
        assert 0 <= float(text.get("y", "")) <= height
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        for x, y in re.findall(r"[ML](-?[\d.e+]+) (-?[\d.e+]+)", path.get("d", "")):
            assert -1 <= float(x) <= width + 1
            assert -1 <= float(y) <= height


def test_ten_thousand_verdicts_stay_below_five_megabytes():
    figures: dict[str, Any] = dict.fromkeys(
        ("ttft_s", "e2e_s", "tpot_s", "prompt_tokens", "upload_s", "itl_p50_s"), 1.23456789
    )
    rows = [verdict(f"TT-{i:04}", f"deployment-{i % 20}", **figures) for i in range(10_000)]
    page = html.page(results(*rows))
    assert len(page.encode()) < 5_000_000
    assert "10000 verdicts. For each, only bounded figures" in page
    assert "ttft_s 1.23457 s" in page
    assert "tpot_s" not in page
    assert "tpot_s" in html.page(results(*rows[:10]))


def test_the_console_writes_the_page_and_the_plots(tmp_path, capsys):
    source = str(REAL / "vllm-0.32.0-cpu/results.jsonl")
    assert cli.main(["report", source, "-o", str(tmp_path / "r.html"), "--plots", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "r.html").stat().st_size > 1000
    assert {path.name for path in (tmp_path / "plots").iterdir()} >= {
        "ttft-cpu-tiny-64k.svg",
        "rates-cpu-tiny-64k.svg",
        "capacity.svg",
        "memory.svg",
        "timeline.svg",
    }
    assert cli.main(["report", source, "--png"]) == 2
    assert "--plots DIR" in capsys.readouterr().err


def test_plots_become_png(tmp_path):
    pytest.importorskip("matplotlib")
    from pytest_longctx.reports import plots

    pytest.importorskip("matplotlib")
    chart = Chart(
        "c",
        "t",
        Axis("x", log=True),
        Axis("y"),
        (Series("a", ((1, 2), (3, 4))), Series("b", ((1, 2), (3, 4)), line=True)),
    )
    bars = Bars("b", "t", Axis("s"), (Bar("one", (Segment(0, 1), Segment(2, 3, 1))),), ("x", "y", "none"))
    for plot in (chart, bars, GRID):
        plots.write(plot, tmp_path / f"{plot.name}.png")
        assert (tmp_path / f"{plot.name}.png").read_bytes().startswith(b"\x89PNG")


def test_vitals_of_many_devices_are_drawn_by_their_extremes_and_listed_one_by_one():
    rows = [
        {"deployment": "tiny", "at_s": 100.0, "figures": {"device_power_w": [90.0, None, 70.0], "running": 1}},
        {"deployment": "tiny", "at_s": 101.0, "figures": {"device_power_w": [500.0, 80.0, 600.0]}},
        {"deployment": "tiny", "at_s": 102.0, "figures": {}, "said": "its memory is not back: device 0"},
        {"deployment": "tiny", "at_s": 102.0, "figures": {}, "said": "its memory is not back: device 0"},
    ]
    found = panel(results(vitals=rows), "Vitals")
    power, running = found.plots
    assert [(one.name, one.points) for one in power.series] == [
        ("highest device", ((0.0, 90.0), (1.0, 600.0))),
        ("lowest device", ((0.0, 70.0), (1.0, 80.0))),
    ]
    assert [one.points for one in running.series] == [((0.0, 1),)]
    assert [row[1:] for row in found.table.rows] == [
        ("device_power_w", "0", "2", "90", "500", "500"),
        ("device_power_w", "1", "1", "80", "80", "80"),
        ("device_power_w", "2", "2", "70", "600", "600"),
        ("running", "", "1", "1", "1", "1"),
    ]
    assert found.note.count("its memory is not back: device 0.") == 1
    read(html.page(results(vitals=rows[2:])))
