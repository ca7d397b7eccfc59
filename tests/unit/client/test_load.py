"""Evidence of a load: rates over the whole load, percentiles over its requests."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.client.exchange import Exchange, Usage
from pytest_longctx.client.load import Load, observe


def answered(started_s, ttft_s, *, chunks=3, gap_s=0.5, ending="complete"):
    arrivals_s = tuple(started_s + ttft_s + gap_s * i for i in range(chunks))
    return Exchange(
        10,
        chunks,
        started_s,
        ending,
        arrivals_s[-1],
        arrivals_s=arrivals_s,
        usage=Usage(10, chunks, None),
        detail="gone",
    )


def test_rates_are_over_the_whole_load_and_percentiles_over_its_requests():
    seen = observe(
        Load(
            (
                answered(0.0, 1.0),
                answered(0.0, 3.0),
                answered(2.0, 2.0),
            )
        )
    ).metrics
    assert seen["load_s"] == 5.0  # from the first byte of the first request to the end of the last
    assert seen["output_tokens_per_s"] == pytest.approx(9 / 5)
    assert seen["total_tokens_per_s"] == pytest.approx(39 / 5)
    assert seen["requests_per_s"] == pytest.approx(3 / 5)
    assert [seen[f"ttft_{name}_s"] for name in ("mean", "p50", "p99")] == pytest.approx([2.0, 2.0, 2.98])
    assert seen["tpot_p50_s"] == seen["itl_mean_s"] == 0.5
    assert (seen["miscounted_prompts"], seen["miscounted_answers"]) == (0, 0)


def test_one_request_that_was_not_served_is_the_evidence():
    seen = observe(
        Load(
            (
                answered(0.0, 1.0),
                answered(0.0, 1.0, ending="disconnected"),
            )
        )
    )
    assert (seen.outcome, seen.said) == ("disconnects", "10 tokens: gone")


def test_answers_of_one_chunk_have_no_time_per_token():
    seen = observe(Load((answered(0.0, 1.0, chunks=1),))).metrics
    assert seen["tpot_mean_s"] is None
    assert seen["itl_p99_s"] is None
    assert seen["ttft_p99_s"] == 1.0


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40))
def test_percentiles_are_linear_between_the_two_nearest_requests_whatever_their_order(times_s):
    seen = observe(Load(tuple(answered(0.0, ttft_s) for ttft_s in times_s))).metrics
    first_tokens_s = sorted(answered(0.0, ttft_s).ttft_s for ttft_s in times_s)
    for percent in (50, 90, 99):
        place = Fraction((len(times_s) - 1) * percent, 100)
        low = int(place)
        above = first_tokens_s[min(low + 1, len(times_s) - 1)] - first_tokens_s[low]
        exact = first_tokens_s[low] + above * float(place - low)
        assert seen[f"ttft_p{percent}_s"] == pytest.approx(exact, rel=1e-12)
    assert {type(value) for name, value in seen.items() if name.startswith("ttft_p")} == {float}  # JSON has no numpy
