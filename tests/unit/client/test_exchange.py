from statistics import median
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_longctx.client.exchange import ENDING_OUTCOMES, Ending, Ledger, Refusal, Usage, tally
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Outcome
from tests.unit import factories

ARRIVALS = st.lists(st.floats(0, 1e5), max_size=20).map(sorted).map(tuple)
COUNTS = st.none() | st.integers(0, 10**7)
REFUSAL = Refusal(400, "too long")


@given(ARRIVALS, st.floats(0, 1e5))
def test_the_first_token_is_the_first_chunk(later, started_s):
    arrivals_s = tuple(started_s + each for each in later)
    found = factories.exchange(started_s=started_s, arrivals_s=arrivals_s)
    assert found.ttft_s == (arrivals_s[0] - started_s if arrivals_s else None)


@given(ARRIVALS)
def test_gaps_are_one_fewer_than_chunks_and_add_up_to_their_span(arrivals_s):
    found = factories.exchange(arrivals_s=arrivals_s)
    metrics = found.metrics()
    assert len(found.gaps_s) == max(len(arrivals_s) - 1, 0)
    if found.gaps_s:
        assert sum(found.gaps_s) == pytest.approx(arrivals_s[-1] - arrivals_s[0])
        assert metrics["itl_max_s"] == max(found.gaps_s)
        assert metrics["itl_p50_s"] == median(found.gaps_s)
    else:
        assert metrics["itl_max_s"] is metrics["itl_p50_s"] is None


@example((1.0, 2.0), 2)
@given(ARRIVALS, COUNTS)
def test_time_per_token_is_by_the_servers_count_and_needs_two_chunks(arrivals_s, counted):
    found = factories.exchange(arrivals_s=arrivals_s, usage=Usage(100, counted))
    if counted is None or counted < 2 or len(arrivals_s) < 2:
        assert found.tpot_s is None
        assert found.metrics()["decode_tokens_per_s"] is None
    else:
        assert found.tpot_s is not None
        assert found.tpot_s * (counted - 1) == pytest.approx(arrivals_s[-1] - arrivals_s[0])


def test_every_figure_of_a_plain_exchange():
    assert factories.exchange(usage=Usage(100, 4, 20)).metrics() == {
        "ttft_s": 2.0,
        "upload_s": 0.5,
        "e2e_s": 4.0,
        "tpot_s": 0.5,
        "itl_p50_s": 0.75,
        "itl_max_s": 1.0,
        "prefill_tokens_per_s": 40.0,
        "decode_tokens_per_s": 2.0,
        "prompt_tokens": 100,
        "completion_tokens": 4,
        "cached_tokens": 20,
        "cached_share": 0.2,
        "waited_unscheduled_s": None,
        "refusal_status": None,
    }


def test_every_figure_has_a_measure():
    assert set(factories.exchange().metrics()) <= set(MEASURES)


def test_nothing_observed_is_nothing_claimed():
    silent = factories.exchange(ending="disconnected", uploaded_s=None, arrivals_s=(), usage=Usage())
    assert set(silent.metrics().values()) == {None}


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"usage": Usage(100, 4, None)}, "prefill_tokens_per_s"),
        ({"usage": Usage(None, 4, 0)}, "prefill_tokens_per_s"),
        ({"arrivals_s": ()}, "prefill_tokens_per_s"),
        ({"arrivals_s": (50.0,)}, "prefill_tokens_per_s"),
        ({"usage": Usage(100, 4, None)}, "cached_share"),
        ({"usage": Usage(None, 4, 0)}, "cached_share"),
        ({"usage": Usage(0, 4, 0)}, "cached_share"),
        ({"arrivals_s": (51.0, 51.0)}, "decode_tokens_per_s"),
        ({"usage": Usage()}, "tpot_s"),
        ({"ending": "deadline"}, "e2e_s"),
        ({"ending": "died mid-stream"}, "e2e_s"),
    ],
)
def test_a_figure_whose_parts_are_missing_is_not_observed(changes, measure):
    assert factories.exchange().metrics()[measure] is not None
    assert factories.exchange(**changes).metrics()[measure] is None


@pytest.mark.parametrize("ending", get_args(Ending))
def test_every_ending_is_an_outcome(ending):
    observation = factories.exchange(ending=ending, detail="what broke").observe()
    assert observation.outcome == ENDING_OUTCOMES[ending]
    assert observation.outcome in (*get_args(Outcome), None)
    # If there is no result, the text states why.
    assert (observation.outcome is None) == (observation.kind in ("too-slow", "not-asked"))
    assert (observation.phase, observation.sent_tokens, observation.said) == ("request", 100, "what broke")


def test_only_a_complete_answer_serves():
    assert [ending for ending in get_args(Ending) if ENDING_OUTCOMES[ending] == "serves"] == ["complete"]


@pytest.mark.parametrize("ending", get_args(Ending))
def test_the_answers_length_is_held_against_a_complete_answer_only(ending):
    assert factories.exchange(ending=ending).observe().asked_tokens == (4 if ending == "complete" else None)


def test_a_refusal_speaks_in_the_servers_words():
    observation = factories.exchange(ending="refused", refusal=REFUSAL, detail="ours").observe()
    assert (observation.outcome, observation.said) == ("refuses", "too long")
    assert observation.metrics["refusal_status"] == 400


def test_a_repr_is_short_however_long_the_answer_was():
    assert len(repr(factories.exchange(text="x" * 2000, arrivals_s=tuple(float(i) for i in range(9999))))) < 500


def test_a_tally_of_good_exchanges_counts_none_wrong():
    observation = tally([factories.exchange(), factories.exchange(sent_tokens=7, usage=Usage(7, 4))])
    assert observation.outcome == "serves"
    assert observation.metrics == {"requests": 2, "miscounted_prompts": 0, "miscounted_answers": 0}
    assert observation.said == ""


@pytest.mark.parametrize(
    ("ledgers", "expected"),
    [
        ([Ledger(100, 4), Ledger(100, 4)], {"ledger_gap_tokens": 0}),
        ([Ledger(100, 4), Ledger(99, 4)], {"ledger_gap_tokens": 1}),
        ([Ledger(111, 4), Ledger(100, 1)], {"ledger_gap_tokens": 14}),
        ([Ledger(100, 4), Ledger(100)], {"ledger_gap_tokens": None}),
        ([Ledger(100, 4), None], {}),
    ],
)
def test_a_tally_holds_the_counters_against_what_was_sent(ledgers, expected):
    seen = tally([factories.exchange(ledger=ledger) for ledger in ledgers]).metrics
    assert {name: value for name, value in seen.items() if name == "ledger_gap_tokens"} == expected


def test_an_exchange_with_a_ledger_tells_both_clocks():
    exchange = factories.exchange(ledger=Ledger(100, 4, 0, 1, 1.25, 0.25, 1.0))
    figures = exchange.metrics()
    assert (figures["server_prompt_tokens"], figures["server_completion_tokens"]) == (100, 4)
    assert (figures["server_ttft_s"], figures["queue_s"], figures["server_prefill_s"]) == (1.25, 0.25, 1.0)
    assert figures["ttft_gap_s"] == 2.0 - 0.5 - 1.25


@pytest.mark.parametrize("missing", [{"arrivals_s": ()}, {"uploaded_s": None}, {"ledger": Ledger(100, 4)}])
def test_without_both_clocks_there_is_no_gap(missing):
    assert factories.exchange(**{"ledger": Ledger(ttft_s=1.25), **missing}).metrics()["ttft_gap_s"] is None


@pytest.mark.parametrize(
    ("usage", "prompts", "answers"),
    [(Usage(99, 4), 1, 0), (Usage(100, 5), 0, 1), (Usage(101, 3), 1, 1), (Usage(100), 0, 1), (Usage(), 1, 1)],
)
def test_a_tally_counts_each_side_that_is_wrong_and_quotes_it(usage, prompts, answers):
    observation = tally([factories.exchange(), factories.exchange(usage=usage)])
    assert (observation.metrics["miscounted_prompts"], observation.metrics["miscounted_answers"]) == (prompts, answers)
    assert "sent 100" in observation.said


def test_a_tally_quotes_a_few_of_many():
    observation = tally([factories.exchange(usage=Usage(99, 4)) for _ in range(50)])
    assert observation.metrics["miscounted_prompts"] == 50
    assert observation.said.count("sent 100") == 3


def test_a_tally_is_the_first_exchange_that_was_not_served():
    failed = factories.exchange(sent_tokens=2048, ending="refused", refusal=REFUSAL, usage=Usage())
    observation = tally([factories.exchange(), failed, factories.exchange(ending="deadline")])
    assert (observation.outcome, observation.said) == ("refuses", "2,048 tokens: too long")
    assert "requests" not in observation.metrics
