"""The first difference of two answers, and the evidence of a warm answer."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.client.answer_tokens import Token, first_difference, logprob_gap
from pytest_longctx.client.exchange import Exchange, Ledger, Usage, again
from pytest_longctx.client.request import by_role
from pytest_longctx.findings.verdicts import judge
from tests.unit import factories

TOKENS = st.lists(st.builds(Token, st.sampled_from("abc"), st.floats(-9, 0), st.floats(-99, -10)), max_size=9)


@given(TOKENS, TOKENS)
def test_answers_differ_first_where_their_common_beginning_ends(first, second):
    names, others = ([each.name for each in answer] for answer in (first, second))
    found = first_difference(first, second) if first and second else None
    if not first or not second or names == others:
        assert found is None
    else:
        assert found is not None
        assert names[: found.index] == others[: found.index]
        assert names[found.index : found.index + 1] != others[found.index : found.index + 1]


def test_a_difference_between_two_equal_choices_proves_nothing():
    close, clear = [Token("a", -0.7, -0.72)], [Token("a", -0.1, -3.0)]
    found = [first_difference(cold, [Token("b", -0.7)]) for cold in (close, clear)]
    assert [each and each.tied for each in found] == [True, False]


def test_the_runner_up_shows_what_a_certain_answer_hides():
    assert logprob_gap([Token("a", 0.0, -7.0)], [Token("a", 0.0, -3.5)]) == 3.5
    assert logprob_gap([Token("a", -1.0), Token("b", -1.0)], [Token("a", -1.5), Token("c", -9.0)]) == 0.5
    assert logprob_gap([Token("a")], [Token("a")]) is None


def exchange(tokens=1000, cached=0, text="Paris is the capital", **also) -> Exchange:
    usage = Usage(tokens, 4, cached)
    return Exchange(tokens, 4, 0.0, "complete", 2.1, 0.01, (2.0, 2.03, 2.06, 2.1), usage, text=text, **also)


REPEATED = {"question": "repeated", "ask": {"prompt_tokens": 1000, "output_tokens": 4}, "bounds": {}}


@pytest.mark.parametrize(
    ("warm", "word"),
    [
        (exchange(cached=992), "holds"),
        (exchange(cached=992, text="hovkeit Pue walt zz"), "broken"),
        (exchange(cached=992, text=""), "broken"),
    ],
)
def test_a_warm_answer_must_be_the_cold_one(warm, word):
    verdict = judge(factories.finding(**REPEATED), again(exchange(), warm))
    assert verdict.word == word
    assert (word == "broken") == ("differs from the cold one" in verdict.why)


def test_answers_without_any_text_are_not_compared():
    seen = again(exchange(text=""), exchange(cached=992, text=""))
    assert judge(factories.finding(**REPEATED), seen).word == "unmeasured"


SERVED = {"question": "served", "ask": {"prompt_tokens": 1000, "output_tokens": 4}, "bounds": {}}


@pytest.mark.parametrize(
    ("cached", "external", "word"),
    [
        (999, None, "unmeasured"),  # as a decode role counts what it received, and nothing says whether it is one
        (992, None, "broken"),  # whole blocks, as a prefix cache counts them
        (999, 0, "broken"),  # the counters name the engine's own cache
    ],
)
def test_what_a_decode_role_counts_is_not_taken_for_a_hit(cached, external, word):
    ledger = None if external is None else Ledger(1000, 4, cached, external_tokens=external)
    verdict = judge(factories.finding(**SERVED), exchange(cached=cached, ledger=ledger).observe())
    assert verdict.word == word


def test_a_known_decode_role_counts_transfers_apart():
    told = Usage(1000, 4, 999)
    assert by_role(told, None) == Usage(1000, 4, None, 999)
    assert by_role(told, Ledger(1000, 4, 999, external_tokens=999)) == Usage(1000, 4, 0, 999)
    assert by_role(told, Ledger(1000, 4, 999, external_tokens=487)) == Usage(1000, 4, 512, 487)
    received = replace(exchange(), usage=by_role(told, None))
    assert judge(factories.finding(**SERVED), received.observe()).word == "holds"


@pytest.mark.parametrize(("corrupted", "word"), [(None, "holds"), (0, "holds"), (1, "broken")])
def test_a_request_that_the_engine_itself_counts_as_corrupted_is_broken(corrupted, word):
    ledger = Ledger(1000, 4, 0, corrupted_requests=corrupted, times_first_token=False)
    verdict = judge(factories.finding(**SERVED), exchange(ledger=ledger).observe())
    assert verdict.word == word
    assert [line.measure for line in verdict.broken] == (["corrupted_requests"] if corrupted else [])
