import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.client.longest_context import Try, found, longest


def serving(limit, said="no"):
    return lambda tokens: Try(tokens, tokens <= limit, "" if tokens <= limit else said)


def test_a_claim_that_is_true_takes_one_try():
    assert longest(1, 1000, serving(1000)) == (Try(1000, worked=True),)


@given(st.integers(1, 10**7), st.integers(0, 10**7))
def test_the_longest_is_found_in_few_tries(claimed, limit):
    tries = longest(1, claimed, serving(limit))
    assert found(tries) == (min(limit, claimed) or None)
    assert len(tries) <= claimed.bit_length() + 2
    assert len({each.tokens for each in tries}) == len(tries)


@pytest.mark.parametrize(
    "message",
    ["maximum context length is 4,096 tokens", "(10000 tokens) is longer than the model's context length (4096)"],
)
def test_a_limit_that_a_refusal_tells_is_tried_on_both_sides(message):
    assert [each.tokens for each in longest(1, 10_000, serving(4096, message))] == [10_000, 4096, 4097]


def test_numbers_that_mean_nothing_cost_little():
    tries = longest(1, 1 << 20, serving(5000, "code 400 at 127, 30_000, 999999999"))
    assert found(tries) == 5000
    assert len(tries) < 40


def test_a_server_that_hangs_is_not_asked_again():
    tries = longest(1, 1000, lambda tokens: Try(tokens, None if tokens < 600 else False, "no"))
    assert [each.tokens for each in tries] == [1000, 500]
    assert found(tries) is None
