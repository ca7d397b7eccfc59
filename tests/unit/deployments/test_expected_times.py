"""Times of long prompts from one that was measured, against committed results; and of answers, against published loads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.deployments import expected_times, models, roofline
from pytest_longctx.deployments.deployment import load_deployments
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import known

SCOUT = known()["llama-4-scout"]
DEPLOYED = load_deployments()


def served(name):
    found = models.shape_of(DEPLOYED[name].model)
    assert found is not None
    return found


RESULTS = {
    # docs/results: shape, devices, measured tokens and seconds: {tokens: seconds}
    "vllm-0.25.1-1xh200/scale": ("scout12-vllm-2m-fp8", 1, 130_000, 3.09, {1_000_000: 66.3}),
    "vllm-0.25.1-4xh200": (
        "h200x4-scout-vllm-2m",
        4,
        125_000,
        3.77,
        {250_000: 9.13, 500_000: 25.67, 1_000_000: 74.3, 2_000_000: 255.34},
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_longer_prompt_is_within_the_bounds_that_one_measurement_gives(name):
    shape, count, tokens, seconds, longer = RESULTS[name]
    for length, real_s in longer.items():
        span = expected_times.from_measured(served(shape), tokens, seconds, length, Hardware("H200", count))
        assert span.low_s <= real_s <= span.high_s
        assert span.expected_s == pytest.approx(real_s, rel=0.15)


def test_ten_million_tokens_are_within_the_bounds_of_one_million():
    """docs/results/sglang-0.5.16-1xh200/no-radix-cache: 3.09 s at a million tokens, 237.78 at ten."""
    for tokens, real_s in ((2_000_000, 10.69), (5_000_000, 61.47), (10_000_000, 237.78)):
        span = expected_times.from_measured(
            served("h200x1-probe-sglang-10m-no-radix-cache"), 1_000_000, 3.09, tokens, Hardware("H200", 1)
        )
        assert span.low_s <= real_s <= span.high_s


@given(
    st.integers(1, 10**8),
    st.floats(1e-3, 1e6),
    st.integers(1, 10**8),
    st.sampled_from(["H200", "H100", "80GiB", "trn2"]),
    st.sampled_from(sorted(known())),
)
def test_the_expected_time_is_between_its_bounds(tokens, seconds, longer, kind, name):
    span = expected_times.from_measured(known()[name], tokens, seconds, longer, Hardware(kind, 1))
    assert span.low_s <= span.expected_s * (1 + 1e-9)
    assert span.expected_s <= span.high_s * (1 + 1e-9)
    same = expected_times.from_measured(known()[name], tokens, seconds, tokens, Hardware(kind, 1))
    assert same.expected_s == pytest.approx(seconds)


def test_a_measurement_at_the_peak_leaves_no_doubt():
    tokens = 100_000
    floor_s = roofline.prefill_floor_s(SCOUT, tokens, Hardware("H200", 8))
    assert floor_s is not None
    span = expected_times.from_measured(SCOUT, tokens, floor_s, 1_000_000, Hardware("H200", 8))
    assert span.low_s == pytest.approx(span.high_s, rel=0.01)


def test_the_answers_of_a_load_are_counted():
    """BB-0002 and BB-0004: 2,560 requests of 1,024 and 1,024 tokens, 512 at once, took 655 and 386 s on a B200."""
    found_s = expected_times.answers_s(SCOUT, 2048, 1024, 2560, 512, Hardware("B200", 1))
    assert 200 < found_s < 700
    assert expected_times.answers_s(SCOUT, 2048, 1024, 2560, 512, Hardware("80GiB", 1)) == 0
