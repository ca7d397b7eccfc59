import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_longctx.errors import UsageError
from pytest_longctx.probe import codes, grading, questions, weights
from pytest_longctx.probe.weights import LLAMA, LLAMA4
from pytest_longctx.prompts import PromptFactory
from tests import kv_rounding, probe_margin
from tests.probe_reference import Reference

FORMATS = list(kv_rounding.STORED)
FAMILIES = pytest.mark.parametrize("family", [LLAMA4, LLAMA], ids=lambda family: family.architecture)


TABLE = weights.embedding()
ATTENTION = {family.architecture: weights.attention(family) for family in (LLAMA4, LLAMA)}


def attended(family, gain, key, tokens, kv):
    """Return the weight of the needle of *key* among all 64 needles and filler, computed directly from the projections."""
    projections, table = ATTENTION[family.architecture], TABLE
    query = gain * (projections["q"] @ table[codes.ASK + key])[: family.head_dim]
    needles = [codes.needle(each, 63 - each) for each in range(codes.KEYS)]
    keys = kv_rounding.stored((table[needles] @ projections["k"].T)[:, : family.head_dim], kv)
    scores = np.zeros(tokens)
    scores[: codes.KEYS] = keys @ query / math.sqrt(family.head_dim)
    share = np.exp(scores - scores.max())
    return share[key] / share.sum()


@FAMILIES
@pytest.mark.parametrize("kv", FORMATS)
@settings(max_examples=10)
@given(
    key=st.integers(0, codes.KEYS - 1),
    tokens=st.sampled_from([64, 1000, 10_000]),
    gain=st.sampled_from([0.125, 0.25, 1.0]),
)
def test_the_closed_form_is_what_attention_comes_to(family, kv, key, tokens, gain):
    fainter = replace(family, query_gain=gain * family.query_gain)
    closed_form = probe_margin.attention_weight(fainter, tokens, kv)
    assert attended(family, gain, key, tokens, kv) == pytest.approx(closed_form, rel=1e-6)


@FAMILIES
@pytest.mark.parametrize("kv", FORMATS)
def test_ten_million_tokens_are_within_what_is_guaranteed(family, kv):
    assert probe_margin.worst_miss(family, kv) == 0
    assert probe_margin.match_score(family, kv) >= math.log(10_000_000) + 15
    assert probe_margin.longest_context(family, kv) > 1_000_000_000_000


def test_the_longest_context_is_where_the_weight_becomes_too_small():
    faint = replace(LLAMA4, query_gain=1.0)
    longest = probe_margin.longest_context(faint)
    assert 100 < longest < 1000
    assert probe_margin.attention_weight(faint, longest) >= probe_margin.needed_weight()
    assert probe_margin.attention_weight(faint, longest + 1) < probe_margin.needed_weight()


@pytest.mark.parametrize("gain", [0.75, 1.0, 1.125])
def test_the_model_itself_answers_up_to_there_and_not_much_further(gain):
    faint = replace(LLAMA4, query_gain=gain)
    longest = probe_margin.longest_context(faint)
    for tokens, right in ((longest - 2, 1), (2 * longest, 0)):
        question = questions.plant(PromptFactory(1, "margin", codes.FILLER_IDS)(tokens), [tokens // 2])
        model = Reference(faint)
        answered = model.answer(model.read(question.prompt.ids), codes.ASK, 2)
        assert grading.ids(question, answered).count("right") == right


def test_one_head_less_is_not_enough():
    assert probe_margin.needed_weight() > 7 / 8
    assert probe_margin.needed_weight() < 1


@pytest.mark.parametrize(
    ("kv", "activations", "bits"),
    [
        ("bfloat16", "bfloat16", 7),
        ("fp8_e4m3", "bfloat16", 3),
        ("fp8_e4m3fnuz", "bfloat16", 3),
        ("fp8_e5m2", "bfloat16", 2),
        ("float16", "float16", 10),
        ("float32", "bfloat16", 7),
        ("float32", "float32", codes.RUNGS),
    ],
)
def test_the_bits_of_a_cache_are_those_of_its_format(kv, activations, bits):
    assert kv_rounding.bits_after_rounding(kv, activations) == bits


@pytest.mark.parametrize("kv", FORMATS)
def test_a_number_beyond_the_range_of_a_format_is_its_largest(kv):
    limit = kv_rounding.finite_limit(kv)
    beyond = np.array([3e38, -3e38, limit], np.float32)
    assert kv_rounding.stored(beyond, kv) == pytest.approx([min(limit, 3e38), -min(limit, 3e38), limit], rel=0.01)


@pytest.mark.parametrize(("kv", "limit"), [("fp8_e4m3", 448), ("fp8_e4m3fnuz", 240), ("fp8_e5m2", 57_344)])
def test_the_range_of_an_fp8_cache_ends_where_its_format_does(kv, limit):
    """On MI300, fp8_e4m3 has the range of fp8_e4m3fnuz."""
    assert kv_rounding.finite_limit(kv) == limit
    assert kv_rounding.stored(np.array([limit, 2.0 * limit, -9.0 * limit], np.float32), kv).tolist() == [
        limit,
        limit,
        -limit,
    ]


@FAMILIES
@pytest.mark.parametrize("kv", ["fp8_e4m3", "fp8_e4m3fnuz", "fp8_e5m2"])
def test_queries_in_fp8_do_not_hide_what_an_fp8_cache_keeps(family, kv):
    """Some attention backends quantise queries too. Saturation of an ask beyond the precision of the cache has no effect."""
    kept = kv_rounding.bits_after_rounding(kv)
    assert probe_margin.largest_ask(family, kept) < kv_rounding.finite_limit(kv)
    asked = ATTENTION[family.architecture]["q"] @ TABLE[codes.ASK_RUNG + kept - 1]
    assert np.abs(asked).max() == probe_margin.largest_ask(family, kept)
    assert (kv_rounding.stored(asked.astype(np.float32), kv) == asked).all()


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="fp8_e4m3"):
        kv_rounding.stored(np.ones(1, np.float32), "fp8_e4m4")
