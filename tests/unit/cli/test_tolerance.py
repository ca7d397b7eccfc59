"""Tolerances of recorded figures: from the spread of the run, and from the default where a run tells no spread."""

import random
from statistics import median

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_longctx.cli.record import tolerance
from pytest_longctx.measures import MEASURES


def rows(*figures):
    return [{"measured": {"cached_share": 0.0, **each}} for each in figures]


def bounds(*figures, typed=None):
    return {each.measure: each for each in tolerance.of_case(rows(*figures), typed)}


@pytest.mark.parametrize(
    ("figures", "share", "said"),
    [
        ([{"ttft_s": 2.0}], 0.10, "no spread is known from 1 run,"),
        ([{"ttft_s": 2.0}, {"ttft_s": 9.0}], 0.10, "no spread is known from 2 runs,"),
        ([{"ttft_s": 2.0, "runs": 5.0, "ttft_spread": 0.01}], 0.10, "is at most the default of 10 %"),
        (
            [{"ttft_s": 2.0, "runs": 5.0, "ttft_spread": 0.2}],
            0.40,
            "5 runs ranged over 20 % of their median, and the tolerance is 2 times that; a slowdown of 75 % or more is detected",
        ),
        ([{"ttft_s": 2.0, "runs": 3.0, "ttft_spread": 0.2}], 0.60, "3 runs ranged over 20 %"),
        (
            [{"ttft_s": 2.0, "runs": 9.0, "ttft_spread": 0.2}],
            0.40,
            "the tolerance is 2 times that; a slowdown of 75 % or more is detected",
        ),
        (
            [{"ttft_s": 2.0, "runs": 10.0, "ttft_spread": 0.2}],
            0.20,
            "the tolerance is 1 times that; a slowdown of 34 % or more is detected",
        ),
        ([{"ttft_s": 2.0, "runs": 2.0, "ttft_spread": 0.2}], 0.10, "no spread is known from 1 run,"),
        ([{"ttft_s": 1.9}, {"ttft_s": 2.0}, {"ttft_s": 2.1}], 0.30, "3 runs ranged over 10 %"),
    ],
)
def test_the_tolerance_of_a_time_comes_from_its_runs(figures, share, said):
    found = bounds(*figures)["ttft_s"]
    reference = median(each["ttft_s"] for each in figures)
    assert found.bound.reference == reference
    assert found.bound.limits == (None, pytest.approx(reference * (1 + share)))
    assert said in found.seen
    assert found.seen.startswith(str(found.bound.because))


def test_each_unit_is_bounded_on_the_side_that_is_worse():
    found = bounds({"decode_tokens_per_s": 50.0, "kv_cache_tokens": 1000.0})
    assert found["decode_tokens_per_s"].bound.limits == (pytest.approx(45.0), None)
    assert found["kv_cache_tokens"].bound.limits == (pytest.approx(990.0), pytest.approx(1010.0))


def test_a_rate_without_a_spread_has_that_of_the_ttft_of_the_same_requests():
    """Otherwise a machine that is busy enough to widen the first would make the second a false regression."""
    figures = {"ttft_s": 2.0, "decode_tokens_per_s": 80.0, "runs": 5.0, "ttft_spread": 0.2}
    found = bounds(figures)["decode_tokens_per_s"]
    assert found.bound.at_least == pytest.approx(80 * 0.6)
    assert "5 runs whose TTFT ranged over 20 %" in found.seen


def test_a_rate_has_the_spread_of_its_own_where_it_is_recorded():
    """The rates of short answers vary much more than the times of long prompts."""
    figures = {"ttft_s": 2.0, "decode_tokens_per_s": 80.0, "runs": 5.0, "ttft_spread": 0.02, "decode_spread": 0.3}
    found = bounds(figures)
    assert found["decode_tokens_per_s"].bound.at_least == pytest.approx(80 * 0.4)
    assert "5 runs ranged over 30 %" in found["decode_tokens_per_s"].seen
    assert found["ttft_s"].bound.at_most == pytest.approx(2.2)
    assert tolerance.warning(found.values()).partition("detected in ")[2].startswith("decode_tokens_per_s;")


def test_a_score_has_the_standard_error_of_its_own_sample():
    bound = bounds({"accuracy_strict": 0.8, "accuracy_strict_stderr": 0.02})["accuracy_strict"].bound
    assert (bound.stderr, bound.sigmas) == (0.02, 3.0)
    assert bound.limits_given(0.02)[0] == pytest.approx(0.8 - 3 * 2**0.5 * 0.02)


def test_a_typed_tolerance_replaces_the_derived_one():
    found = bounds({"ttft_s": 2.0, "runs": 5.0, "ttft_spread": 0.5}, typed=0.05)["ttft_s"]
    assert found.bound.at_most == pytest.approx(2.1)
    assert "as typed" in found.seen


def test_a_time_of_an_unobserved_cache_and_a_figure_of_zero_are_left_out():
    assert list(tolerance.of_case([{"measured": {"ttft_s": 2.0}}])) == []
    assert bounds({"ttft_s": 0.0, "decode_tokens_per_s": 0.0}) == {}


def test_what_only_some_of_the_repeats_observed_is_left_out():
    assert bounds({"ttft_s": 2.0}, {"kv_cache_tokens": 7.0}) == {}


@given(
    st.sampled_from(tolerance.RECORDED),
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9),
)
@example("kv_cache_tokens", [1.0, 1.0, 35.0])  # a tolerance of 10,200 %
def test_what_was_recorded_is_within_its_own_bound(measure, values):
    """The median, which is what a run with as many repeats would judge again."""
    for found in tolerance.of_case(rows(*({measure: value} for value in values))):
        low, high = found.bound.limits
        assert found.bound.unit == MEASURES[measure].unit
        assert low is None or low <= median(values)
        assert high is None or high >= median(values) * (1 - 1e-5)


@pytest.mark.parametrize(
    ("figures", "blind"),
    [
        ({"ttft_s": 2.0, "runs": 5.0, "ttft_spread": 0.03}, []),
        ({"ttft_s": 2.0, "runs": 5.0, "ttft_spread": 0.06}, []),  # 1.12 / 0.94
        ({"ttft_s": 2.0, "runs": 5.0, "ttft_spread": 0.07}, ["ttft_s"]),  # 1.14 / 0.93
        ({"ttft_s": 2.0, "runs": 10.0, "ttft_spread": 0.12}, []),  # 1.12 / 0.94
        (
            {"ttft_s": 2.0, "decode_tokens_per_s": 50.0, "runs": 5.0, "ttft_spread": 0.31},
            ["ttft_s", "decode_tokens_per_s"],
        ),
        ({"ttft_s": 2.0, "runs": 3.0, "ttft_spread": 0.5}, ["ttft_s"]),  # no slowdown is certain to be detected
        ({"ttft_s": 2.0}, []),  # nothing is known
        ({"kv_cache_tokens": 1000.0, "runs": 5.0, "ttft_spread": 0.5}, []),  # a slowdown does not change it
    ],
)
def test_a_spread_that_hides_a_slowdown_of_a_fifth_is_told(figures, blind):
    found = bounds(figures)
    assert [name for name, each in found.items() if each.blind] == blind
    warned = tolerance.warning(found.values())
    assert warned.startswith("the spread of this machine is too wide: a slowdown of 20 %") == bool(blind)
    assert all(name in warned for name in blind)


def test_without_a_spread_nothing_is_said_to_be_seen():
    (found,) = bounds({"ttft_s": 2.0}).values()
    assert found.visible is None
    assert found.seen.endswith("; the smallest detectable slowdown is not known")
    assert "slowdown" not in bounds({"kv_cache_tokens": 1000.0})["kv_cache_tokens"].seen


def test_a_typed_tolerance_is_warned_of_by_the_spread_of_the_run():
    figures = {"ttft_s": 2.0, "runs": 5.0, "ttft_spread": 0.02}
    assert tolerance.warning(bounds(figures, typed=0.5).values())
    assert not tolerance.warning(bounds(figures, typed=0.1).values())


@pytest.mark.parametrize("unit", ["ttft_s", "output_tokens_per_s"])
@pytest.mark.parametrize("runs", [3, 5, 10])
def test_a_slowdown_that_is_said_to_be_seen_is_seen(unit, runs):
    """For normal values of one spread: in 97 of 100 runs or more, and a slowdown of none in few."""
    draw, tries, missed = random.Random(3), 5000, 0
    for _ in range(tries):
        old, new = ([draw.gauss(100, 1.5) for _ in range(runs)] for _ in range(2))
        found = bounds(*({unit: value} for value in old))[unit]
        assert found.visible is not None
        slow = median(new) * (1 + found.visible) if unit == "ttft_s" else median(new) / (1 + found.visible)
        low, high = found.bound.limits
        missed += not ((low is not None and slow < low) or (high is not None and slow > high))
    assert 0 < missed / tries < 0.03


@pytest.mark.parametrize(("runs", "most"), [(3, 0.02), (5, 0.005), (10, 0.001)])
def test_a_run_of_the_same_server_is_rarely_called_a_regression(runs, most):
    """The figures of the docstring, without the least tolerance, for normal values."""
    draw, tries, red = random.Random(7), 20_000, 0
    for _ in range(tries):
        old, new = ([draw.gauss(100, 20) for _ in range(runs)] for _ in range(2))
        share, _, _ = tolerance.derived("ttft_s", old, [])
        red += median(new) > median(old) * (1 + share)
    assert 0 <= red / tries < most
    assert red or runs > 5
