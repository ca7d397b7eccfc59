"""The model in numpy: correct with an intact cache, and wrong at the right depth with a damaged one."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_longctx.probe import codes, grading, questions
from pytest_longctx.probe.weights import HEADS, LLAMA, LLAMA4
from pytest_longctx.prompts import PromptFactory
from tests import kv_rounding, probe_damage
from tests.probe_reference import Reference

TOKENS = 20_000
MODEL = Reference(LLAMA4)
QUESTION, OTHER = (
    questions.plant(PromptFactory(seed, "damage", codes.FILLER_IDS)(TOKENS), questions.spread(TOKENS, 12))
    for seed in (1, 2)
)
CACHE = MODEL.read(QUESTION.prompt.ids)
SPANS = st.tuples(st.integers(0, TOKENS - 2), st.integers(1, 4000)).map(lambda at: (at[0], min(sum(at), TOKENS - 1)))
PAIRS = [
    (family, kv, act)
    for family in (LLAMA4, LLAMA)
    for kv, act in (
        ("bfloat16", "bfloat16"),
        ("fp8_e4m3", "bfloat16"),
        ("fp8_e5m2", "bfloat16"),
        ("float16", "float16"),
    )
]


def test_a_needle_lies_where_the_examples_below_begin_and_end():
    assert 1818 in {each.position for each in QUESTION.needles}


def graded(cache, model=MODEL, question=QUESTION):
    return grading.ids(question, model.answer(cache, codes.ASK, question.output_tokens))


@pytest.mark.parametrize(
    ("family", "kv", "activations"), PAIRS, ids=lambda value: getattr(value, "architecture", value)
)
def test_a_sound_cache_answers_everything_and_its_ladder_has_the_bits_of_its_format(family, kv, activations):
    model = Reference(family, kv, activations)
    filler = PromptFactory(3, "sound", codes.FILLER_IDS)
    question = questions.plant(filler(TOKENS), questions.spread(TOKENS, 16))
    assert graded(model.read(question.prompt.ids), model, question).sound
    rungs = grading.plant(filler(TOKENS))
    answered = model.answer(model.read(rungs.prompt.ids), codes.ASK_RUNG, rungs.output_tokens)
    assert grading.ladder_ids(answered).mantissa_bits == kv_rounding.bits_after_rounding(kv, activations)


def inside(span):
    return [
        each.position
        for each in sorted(QUESTION.needles, key=lambda each: each.position)
        if span[0] <= each.position < span[1]
    ]


@settings(max_examples=12)
@given(SPANS)
@example((5, 1818))
@example((1818, 1819))
def test_a_block_of_zeros_loses_what_lay_in_it(span):
    result = graded(probe_damage.zeroed(CACHE, *span))
    assert [step.needle.position for step in result.failures] == inside(span)
    assert result.count("lost") == len(inside(span))
    assert result.denied


@settings(max_examples=12)
@given(SPANS)
@example((5, 1818))
@example((1818, 1819))
def test_a_dropped_chunk_loses_what_lay_in_it(span):
    result = graded(probe_damage.dropped(CACHE, *span))
    assert [step.needle.position for step in result.failures] == inside(span)
    assert result.denied


@settings(max_examples=12)
@given(SPANS, st.integers(1, 500))
@example((5, 1818), 1)
@example((1818, 1819), 1)
def test_values_that_lie_beside_their_keys_are_lost(span, by):
    result = graded(probe_damage.shifted(CACHE, *span, by=by))
    assert [step.needle.position for step in result.failures] == inside(span)


def test_another_prompts_block_is_seen_as_its_values():
    position = QUESTION.needles[7].position
    theirs = PromptFactory(9, "theirs", codes.FILLER_IDS)(TOKENS).ids.copy()
    theirs[position] = codes.needle(7, (QUESTION.needles[7].value + 1) % codes.VALUES)
    result = graded(probe_damage.swapped(CACHE, MODEL.read(theirs), position - 100, position + 100))
    (step,) = result.failures
    assert (step.needle.position, step.outcome) == (position, "wrong value")


def test_another_prompts_needle_for_a_key_that_was_not_planted_is_not_denied():
    theirs = PromptFactory(9, "theirs", codes.FILLER_IDS)(TOKENS).ids.copy()
    theirs[500] = codes.needle(12, 3)
    result = graded(probe_damage.swapped(CACHE, MODEL.read(theirs), 490, 510))
    assert not result.failures
    assert result.denied is False


@settings(max_examples=12)
@given(SPANS)
def test_another_prompts_span_never_goes_unseen(span):
    result = graded(probe_damage.swapped(CACHE, MODEL.read(OTHER.prompt.ids), *span))
    assert set(inside(span)) <= {step.needle.position for step in result.failures}


@pytest.mark.parametrize("head", [0, 1])
def test_a_head_that_reads_zeros_loses_everything(head):
    result = graded(probe_damage.head_lost(CACHE, head))
    assert result.count("lost") == len(QUESTION.needles)


@pytest.mark.parametrize("head", range(HEADS))
def test_one_query_head_of_eight_that_fetches_nothing_is_seen(head):
    model = Reference(LLAMA4)
    out = model._projection("o").copy()
    out[:, head * LLAMA4.head_dim : (head + 1) * LLAMA4.head_dim] = 0
    model._weights = {**model._weights, "model.layers.3.self_attn.o_proj.weight": out}
    assert graded(CACHE, model).count("lost") == len(QUESTION.needles)


def test_filler_is_answered_with_filler():
    prompt = PromptFactory(4, "filler", codes.FILLER_IDS)(50)
    last = int(prompt.ids[-1])
    assert MODEL.answer(MODEL.read(prompt.ids), last, 3) == (last, last, last)


@pytest.mark.parametrize("span", [(0, 3000), (17_500, 20_000 - 1), (0, 20_000 - 1)])
def test_an_end_of_the_context_that_is_lost_is_no_ladder_instead_of_a_short_one(span):
    rungs = grading.plant(PromptFactory(6, "ladder", codes.FILLER_IDS)(TOKENS))
    cache = probe_damage.zeroed(MODEL.read(rungs.prompt.ids), *span)
    found = grading.ladder_ids(MODEL.answer(cache, codes.ASK_RUNG, rungs.output_tokens))
    assert None not in found.kept
    assert found.mantissa_bits is None


def test_the_cache_of_a_long_prompt_is_as_small_as_its_needles():
    question = questions.plant(PromptFactory(7, "long", codes.FILLER_IDS)(1_000_000), questions.spread(1_000_000, 9))
    cache = MODEL.read(question.prompt.ids)
    assert cache.keys.shape == (9 + 1, 2, LLAMA4.head_dim)
    assert np.array_equal(np.delete(cache.positions, -1), questions.spread(1_000_000, 9))
