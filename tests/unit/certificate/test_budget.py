"""Nothing is ever sent above the budget."""

import contextlib

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from pytest_longctx.certificate.budget import Budget, OverBudget, Prices, parse
from pytest_longctx.errors import LongctxError, UsageError
from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.rate_limit import RateLimit
from tests.unit.certificate.endpoints import certified


def sent(api: HostedApi) -> int:
    """Tokens that arrived, with the answers that were asked for; refused and repeated requests too."""
    return sum((each.prompt_tokens or 0) + (each.max_tokens or 0) for each in api.received)


RUNS = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a run takes a second, and shrinking takes hundreds of them
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@RUNS
@given(
    tokens=st.integers(0, 60_000),
    limit=st.integers(600, 9_000),
    limited=st.sampled_from([None, 5, 400]),
    claim=st.sampled_from([None, 1_000, 100_000]),
)
def test_a_run_stays_within_its_budget_of_tokens(key, tokens, limit, limited, claim):
    api = HostedApi(limit=limit, key=key, rate_limit=RateLimit(limited) if limited else None)
    with contextlib.suppress(LongctxError):
        certified(api, claim=claim, budget=Budget(tokens))
    assert sent(api) <= tokens


@RUNS
@example(money=0.125, price_in=2.0, price_out=11.0)
@given(money=st.floats(0.0001, 0.5), price_in=st.floats(0.01, 20), price_out=st.floats(0.01, 80))
def test_a_run_stays_within_its_budget_of_money(key, money, price_in, price_out):
    api, prices = HostedApi(limit=3_000, key=key), Prices(price_in, price_out)
    with contextlib.suppress(LongctxError):
        certified(api, budget=Budget(None, money, prices))
    cost = sum(prices.cost(each.prompt_tokens or 0, each.max_tokens or 0) or 0 for each in api.received)
    assert cost <= money + 1e-9


@given(
    st.integers(0, 10_000),
    st.lists(
        st.tuples(
            st.integers(0, 3_000),
            st.integers(0, 300),
            st.none() | st.tuples(st.integers(0, 3_000), st.integers(0, 300)),
        )
    ),
)
def test_what_is_reserved_never_exceeds_the_budget(tokens, requests):
    budget, gone = Budget(tokens), 0
    for prompt, answer, counted in requests:
        try:
            settle = budget.reserve(prompt, answer)
        except OverBudget:
            assert budget.spent + prompt + answer > tokens
            continue
        gone += 1
        assert budget.spent <= tokens
        if counted and sum(counted) <= prompt + answer:
            settle(*counted)
    assert budget.requests == gone


def test_an_answer_that_counts_more_than_was_reserved_is_charged():
    budget = Budget(1_000)
    budget.reserve(100, 10)(990, 10)
    with pytest.raises(OverBudget, match="0 left"):
        budget.reserve(1, 0)


@pytest.mark.parametrize(
    ("text", "tokens"), [("2M", 2_000_000), ("2M-tokens", 2_000_000), ("128Ki tokens", 131_072), ("5000", 5_000)]
)
def test_a_budget_in_tokens(text, tokens):
    assert parse(text, Prices()).tokens == tokens


def test_a_budget_in_money_needs_prices():
    with pytest.raises(UsageError, match="--price-in"):
        parse("$5", Prices(1.0))
    assert parse("$5", Prices(1.0, 2.0)).left() == 5_000_000


@pytest.mark.parametrize("text", ["", "much", "-5", "$", "$-3", "5$"])
def test_no_budget(text):
    with pytest.raises(UsageError):
        parse(text, Prices(1.0, 1.0))
