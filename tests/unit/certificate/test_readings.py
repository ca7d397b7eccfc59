"""What is read out of answers: dialects, refusals, and the part of a text that was lost."""

import doctest
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.certificate import budget, reply, texts, truncation_checks, wire
from pytest_longctx.certificate.dialects import Counts, known
from pytest_longctx.certificate.results import broken, explained, holds

DIALECTS = {each.id: each for each in known()}


@pytest.mark.parametrize("module", [budget, reply, texts, truncation_checks])
def test_the_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("This model's maximum context length is 128000 tokens. However, you requested 128009 tokens", [128000]),
        ("The input (16385 tokens) is longer than the model's context length (16384 tokens).", [16384]),
        ("The input token count (1050000) exceeds the maximum number of tokens allowed (1048576).", [1048576]),
        ("prompt is too long: 200001 tokens > 200000 maximum", [200000]),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", [4096]),
        ("request 83838 failed at 2026-11-29", []),
    ],
)
def test_limits_that_refusals_tell(text, limits):
    assert reply.told(text) == limits


def test_counts_of_each_dialect():
    chat = {
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 4},
        }
    }
    assert DIALECTS["chat"].counts(chat) == Counts(5, 2, 7, 4)
    assert DIALECTS["responses"].counts({"usage": {"input_tokens": 5, "output_tokens": 2}}) == Counts(5, 2)
    assert DIALECTS["generate"].counts(
        {"meta_info": {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 1}}
    ) == Counts(5, 2, None, 1)
    assert DIALECTS["chat"].counts({"usage": None}) is None
    assert DIALECTS["chat"].counts({"usage": {"prompt_tokens": "5"}}) == Counts(5)
    assert DIALECTS["chat"].counts({"usage": {"prompt_tokens": "five"}}) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "message",
                        "content",
                        "usage",
                        "output",
                        "0",
                        "delta",
                        "type",
                        "text",
                        "prompt_tokens",
                        "meta_info",
                        "finish_reason",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_no_page_breaks_a_reader(page):
    for dialect in known():
        dialect.counts(page)
        dialect.finished(page)
        dialect.first_logprob(page)
        for streamed in (False, True):
            text, thought = dialect.words(page, streamed=streamed)
            assert isinstance(text, str)
            assert isinstance(thought, str)


def test_a_field_that_is_refused_is_left_out():
    body = DIALECTS["chat"].without("max_tokens").without("temperature").body((("user", "x"),), "m", 4)
    assert body == {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 4}
    assert "stream_options" not in DIALECTS["chat"].without("stream_options").body(
        (("user", "x"),), "m", 4, stream=True
    )


def test_retry_after_as_seconds_and_as_a_date():
    assert wire._retry_after("3") == 3
    then = datetime.now(UTC) + timedelta(seconds=60)
    assert 50 < (wire._retry_after(format_datetime(then, usegmt=True)) or 0) <= 61
    assert wire._retry_after("soon") is None
    assert wire._retry_after(None) is None


@pytest.mark.parametrize(
    ("location", "away"),
    [
        ("/v1/chat", False),
        ("https://api.example.com/v2", False),
        ("https://evil.example.com/", True),
        ("http://api.example.com/", True),
    ],
)
def test_another_host(location, away):
    assert wire.other_host("https://api.example.com", location) is away


def test_what_another_broken_check_explains_is_unmeasured():
    given = (
        broken("truncation-head", "lost", "all"),
        broken("count-long", "less", "all"),
        broken("error-key", "served", "401"),
        holds("count-total", ""),
    )
    assert [each.word for each in explained(given)] == ["broken", "unmeasured", "broken", "holds"]


@given(st.integers(1, 12), st.integers(500, 20_000), st.integers(1, 6), st.integers(0, 2**32))
def test_every_fact_stands_once_in_a_text_and_the_question_at_both_ends(count, characters, turns, seed):
    made = texts.quest(np.random.default_rng(seed), characters, count, turns=turns)
    text = "\n".join(content for role, content in made.turns if role == "user")
    assert [text.count(fact.sentence.strip()) for fact in made.asked] == [1] * count
    assert text.startswith(texts.task(made.asked))
    assert text.endswith(texts.task(made.asked))
    assert made.found(", ".join(fact.code for fact in made.asked)) == (True,) * count
