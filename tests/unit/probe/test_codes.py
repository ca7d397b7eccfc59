import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.probe import codes
from pytest_longctx.probe.codes import KEYS, RUNGS, VALUES, VOCABULARY, Said

INDICES = st.integers(0, KEYS - 1)
ANSWERS = st.one_of(
    st.builds(lambda key, value: (codes.answer(key, value), Said("answer", key, value)), INDICES, INDICES),
    st.builds(lambda key: (codes.NONE + key, Said("none", key)), INDICES),
    st.builds(lambda bits: (codes.KEPT + bits - 1, Said("kept", bits)), st.integers(1, RUNGS)),
    st.builds(lambda bits: (codes.ERASED + bits - 1, Said("erased", bits)), st.integers(1, RUNGS)),
)


def test_any_two_codes_are_orthogonal():
    code = codes.hadamard()
    assert set(np.unique(code)) == {-1, 1}
    assert np.array_equal(code @ code.T, codes.WIDTH * np.eye(codes.WIDTH))


def test_the_ids_of_all_kinds_follow_each_other_without_a_gap():
    assert codes.ERASED + RUNGS <= codes.ASK
    assert [codes.needle(0, 0), codes.needle(KEYS - 1, VALUES - 1) + 1] == [codes.NEEDLE, codes.ANSWER]
    assert [codes.answer(0, 0), codes.answer(KEYS - 1, VALUES - 1) + 1] == [codes.ANSWER, codes.FILLER]
    assert codes.FILLER_IDS == (codes.FILLER, VOCABULARY)
    assert VOCABULARY % 128 == 0


def test_every_id_has_a_word_of_its_own():
    words = codes.words()
    assert len(words) == len(set(words)) == VOCABULARY
    assert all(len(word.split()) == 1 for word in words)


@given(st.lists(ANSWERS, max_size=80), st.sampled_from(["", " ", "\n "]))
def test_what_is_said_is_read_back_with_and_without_spaces(answers, between):
    text = between.join(codes.words()[i] for i, _ in answers)
    assert codes.read(text) == tuple(message for _, message in answers)
    assert codes.read_ids(i for i, _ in answers) == tuple(message for _, message in answers)


@given(st.integers(0, VOCABULARY - 1))
def test_only_answers_are_read_as_answers(token):
    answered = codes.ANSWER <= token < codes.FILLER or codes.NONE <= token < codes.NEEDLE
    answered = answered or codes.KEPT <= token < codes.ERASED + RUNGS
    assert (codes.read_ids([token]) != (None,)) == answered


@pytest.mark.parametrize("text", ["once", "a00", "a0.17", "n00.17", "xa00.17", "a00.17x", "<3>", "none1"])
def test_a_word_that_is_no_answer_is_no_answer(text):
    assert None in codes.read(text)


def test_an_id_outside_the_vocabulary_is_no_answer():
    assert codes.read_ids([-1, VOCABULARY]) == (None, None)


@given(st.text())
def test_any_text_can_be_read(text):
    assert len(codes.read(text)) >= len(text.split())
