import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings.intervals import beta_share, interval


def at_least(right, count, share):
    """Return the probability of *right* or more successes among *count*, term by term."""
    return sum(math.comb(count, each) * share**each * (1 - share) ** (count - each) for each in range(right, count + 1))


@given(st.integers(1, 60), st.data())
def test_the_ends_are_where_the_binomial_tails_are_half_of_what_is_left_out(count, data):
    right = data.draw(st.integers(0, count))
    low, high = interval(right, count)
    assert 0 <= low <= right / count <= high <= 1
    if right:
        assert at_least(right, count, low) == pytest.approx(0.025, rel=1e-6)
    if right < count:
        assert 1 - at_least(right + 1, count, high) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # published tables of Clopper and Pearson
    [
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (8, 20, 0.1912, 0.6395),
    ],
)
def test_known_intervals(right, count, low, high):
    assert interval(right, count) == pytest.approx((low, high), abs=5e-5)


@given(st.floats(0.001, 0.999), st.floats(0.1, 400), st.floats(0.1, 400))
def test_shares_of_a_beta_distribution_are_symmetric(x, a, b):
    assert beta_share(x, a, b) == pytest.approx(1 - beta_share(1 - x, b, a), abs=1e-9)


known = cache(interval)


@pytest.mark.parametrize("parts", [1, 3, 4, 10])
@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_at_least_95_of_100_intervals_of_partial_scores_hold_the_mean(parts, together, share):
    """*together* is the share of answers whose parts are all right or all wrong."""
    rng, count, held, trials = np.random.default_rng(1), 20, 0, 2000
    for _ in range(trials):
        alike = rng.random(count) < together
        whole, each = rng.random(count) < share, rng.random((count, parts)) < share
        scores = np.where(alike, whole, each.mean(axis=1))
        low, high = known(round(float(scores.sum()), 6), count)
        held += low <= share <= high
    assert held / trials >= 0.945  # 0.95 less what 2,000 trials vary by
