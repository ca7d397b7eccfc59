"""Needles and their results, from a test to the map in the report."""

import pytest

from pytest_longctx.reports import html
from pytest_longctx.reports.panels import retrieval
from pytest_longctx.reports.plots import Grid

HIDES = """
import pytest

@pytest.mark.finding("LC-0002")
def test_it(finding, prompt, ask, judge, server, longctx_session):
    longctx_session.note_found(server, 10_000, [(i / 63, float(i != 21)) for i in range(64)])
    longctx_session.note_found(server, 1_000, [(0.5, 1.0)])
    assert judge(ask(prompt(10_000), 32))
"""


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_places_reach_the_results_and_the_map(run, pytester, workers):
    pytester.makepyfile(test_hides=HIDES)
    done = run("--backend=miniature", *workers, what=str(pytester.path / "test_hides.py"))
    rows = done.results.retrievals
    assert len(rows) == 65
    assert [row["depth"] for row in rows if not row["score"]] == [0.333333]
    assert {row["deployment"] for row in rows} == {"miniature"}
    (panel,) = retrieval(rows)
    (grid,) = panel.plots
    assert isinstance(grid, Grid)
    assert [row.partition(", ")[0] for row in grid.rows] == ["miniature", "miniature"]
    assert sum(cell < 1 for cells in grid.cells for cell in cells if cell is not None) == 1
    assert panel.note == "64 of 65 hidden facts were found."
    assert "Hidden facts found" in html.page(done.results)
    again = run("--backend=miniature", "--longctx-resume=results", what=str(pytester.path / "test_hides.py"))
    assert again.results.retrievals == rows
