"""The law of time to first token, fitted to documented and committed runs."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings import ttft_law
from pytest_longctx.reports import analysis, results

RESULTS = Path(__file__).parents[3] / "docs/results"


def test_the_law_of_the_documented_runs():
    """
    Documented: t = 12.65 N + 37.14 N^2, N in millions, by plain least squares; the relative fit differs by at most one
    percent.
    """
    law = ttft_law.fit([(1_620_345, 118.0), (2_845_646, 334.91), (4_908_091, 957.07)])
    assert law.linear_s * 1e6 == pytest.approx(12.65, rel=0.01)
    assert law.quadratic_s * 1e12 == pytest.approx(37.14, rel=0.01)
    assert law.seconds(2_065_427) == pytest.approx(184, abs=1)  # predicted time of the contaminated run
    assert law.seconds(6_378_187) == pytest.approx(
        1547, rel=0.03
    )  # observed from the stamps of the log, not "about 100 s"


@given(st.floats(1e-6, 1e-3), st.floats(1e-14, 1e-10))
def test_a_law_is_found_again(linear_s, quadratic_s):
    law = ttft_law.Law(linear_s, quadratic_s)
    found = ttft_law.fit([(n, law.seconds(n)) for n in (10_000, 100_000, 1_000_000, 4_000_000)])
    assert found.seconds(2_000_000) == pytest.approx(law.seconds(2_000_000), rel=1e-6)


def exact_law(points):
    """The normal equations of the relative error in exact fractions."""
    rows = [(Fraction(n) / Fraction(t), Fraction(n) ** 2 / Fraction(t)) for n, t in points]
    aa, ab, bb = (
        sum(x * y for x, y in pairs) for pairs in ([(a, a) for a, _ in rows], rows, [(b, b) for _, b in rows])
    )
    a1, b1 = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    return float((a1 * bb - b1 * ab) / determinant), float((aa * b1 - ab * a1) / determinant)


@pytest.mark.parametrize("run", ["vllm-0.25.1-1xh200", "vllm-0.25.1-1xh200/scale", "vllm-0.32.0-cpu"])
def test_the_laws_of_committed_runs_are_the_exact_least_squares(run):
    found = analysis.cold(results.read(RESULTS / run / "results.jsonl"))
    sweeps = [[(point.tokens, point.ttft_s) for point in points] for points in found.values() if len(points) > 1]
    assert sweeps
    for points in sweeps:
        assert ttft_law.fit(points) == pytest.approx(exact_law(points), rel=1e-9, abs=0.0)


@pytest.mark.parametrize("points", [[], [(10, 1.0)], [(10, 1.0), (10, 2.0)]])
def test_a_law_needs_two_lengths(points):
    with pytest.raises(ValueError, match="two different prompt lengths"):
        ttft_law.fit(points)
