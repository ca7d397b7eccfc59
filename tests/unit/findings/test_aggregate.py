from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings.aggregate import WORST, conversation, length_sweep, summary
from pytest_longctx.observation import Observation


def reading(tokens: int = 100, /, **metrics: float | None) -> Observation:
    return Observation("serves", metrics, "request", sent_tokens=tokens, asked_tokens=4)


def test_the_median_is_judged_and_the_spread_is_kept():
    found = summary([reading(ttft_s=2.0), reading(ttft_s=9.0), reading(ttft_s=3.0)])
    assert (found.metrics["ttft_s"], found.metrics["ttft_spread"], found.metrics["runs"]) == (3.0, 7 / 3, 3)
    assert (found.sent_tokens, found.asked_tokens) == (100, 4)
    assert found.metrics["decode_spread"] is None
    rates = summary([reading(ttft_s=2.0, decode_tokens_per_s=rate) for rate in (90.0, 120.0, 100.0)])
    assert rates.metrics["decode_spread"] == 0.3


def test_one_reading_is_itself():
    one = reading(ttft_s=2.0)
    assert summary([one]) is one


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [
        ("prompt_tokens", [100, 99, 100], 99),
        ("prompt_tokens", [100, 100, 140], 140),
        ("server_prompt_tokens", [100, 75, 100], 75),
        ("completion_tokens", [4, 4, 2], 2),
        ("cached_share", [0.0, 0.9, 0.0], 0.9),
        ("peak_share", [0.4, 1.4, 0.4], 1.4),
        ("ttft_gap_s", [0.1, -3.0, 0.2], -3.0),
    ],
)
def test_one_bad_reading_of_what_must_be_exact_is_not_outvoted(name, values, kept):
    assert summary([reading(**{name: value}) for value in values]).metrics[name] == kept


@pytest.mark.parametrize("name", ["ttft_s", *WORST])
def test_a_figure_that_one_reading_lacks_was_not_observed(name):
    assert summary([reading(**{name: 1.0}), reading(**{name: None})]).metrics[name] is None


def test_a_reading_that_was_not_served_stands_for_all():
    refused = Observation("refuses", said="too long")
    assert summary([reading(ttft_s=1.0), refused]) is refused
    assert length_sweep([reading(10, ttft_s=1.0), replace(refused, sent_tokens=20)]).said == "20 tokens: too long"


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_ladder_finds_the_law_again(linear_s, quadratic_s):
    lengths = (100_000, 500_000, 2_000_000)
    points = [reading(n, ttft_s=linear_s * n / 1e6 + quadratic_s * (n / 1e6) ** 2) for n in lengths]
    found = length_sweep(points).metrics
    assert found["law_linear_s"] == pytest.approx(linear_s, rel=1e-4, abs=1e-4)
    assert found["law_quadratic_s"] == pytest.approx(quadratic_s, rel=1e-4, abs=1e-4)
    assert found["law_error"] == pytest.approx(0, abs=1e-6)


def test_a_slowdown_that_grows_with_the_prompt_is_seen_at_100k():
    """A tenth more in the quadratic term is 2 % of the time at 100,000 tokens, and a tenth of the coefficient."""
    law = {n: 12.67 * n / 1e6 + 37.06 * (n / 1e6) ** 2 for n in (25_000, 50_000, 100_000)}
    slower = length_sweep([reading(n, ttft_s=s + 3.706 * (n / 1e6) ** 2) for n, s in law.items()]).metrics
    assert slower["law_quadratic_s"] == pytest.approx(1.1 * 37.06, rel=1e-3)


def test_a_reading_off_the_law_is_an_error_of_the_law():
    points = [reading(n, ttft_s=n / 1e6) for n in (1_000_000, 2_000_000)] + [reading(3_000_000, ttft_s=6.0)]
    error = length_sweep(points).metrics["law_error"]
    assert error is not None
    assert error > 0.1


def test_a_ladder_without_a_time_has_no_law():
    assert length_sweep([reading(10, ttft_s=1.0), reading(20, ttft_s=None)]).metrics["law_error"] is None


@pytest.mark.parametrize(("shares", "expected"), [([0.0, 0.2], 0.2), ([0.0, None], None)])
def test_a_ladder_is_as_warm_as_its_warmest_step(shares, expected):
    points = [reading(n, ttft_s=float(n), cached_share=share) for n, share in enumerate(shares, start=1)]
    assert length_sweep(points).metrics["cached_share"] == expected


def turn(tokens: int, cached: float | None, ttft_s: float | None) -> Observation:
    return reading(tokens, cached_tokens=cached, ttft_s=ttft_s)


def test_the_turn_that_reused_least_is_judged_and_the_first_must_be_cold():
    found = conversation([turn(1000, 0, 8.0), turn(1100, 1000, 1.0), turn(1200, 880, 4.0), turn(1300, 1200, 2.0)])
    assert found.metrics["reused_share"] == 880 / 1100
    assert found.metrics["turn_speedup"] == 4.0
    assert (found.sent_tokens, found.metrics["cached_tokens"]) == (1000, 0)


def test_a_turn_whose_cache_was_not_told_leaves_nothing_to_judge():
    found = conversation([turn(1000, 0, 8.0), turn(1100, None, None), turn(1200, 1100, 2.0)])
    assert (found.metrics["reused_share"], found.metrics["turn_speedup"]) == (None, None)


def test_a_turn_that_is_refused_stands_for_the_conversation():
    refused = Observation("refuses", {}, "request", said="too long")
    found = conversation([turn(1000, 0, 8.0), refused, turn(1200, 1100, 2.0)])
    assert (found.outcome, found.said) == ("refuses", "turn 2: too long")
