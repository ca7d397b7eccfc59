import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.errors import PromptError
from pytest_longctx.probe import codes, questions
from pytest_longctx.prompts import PromptFactory

SEEDS = st.integers(0, 2**32)


def filler(tokens, seed=0):
    return PromptFactory(seed, "probe", codes.FILLER_IDS)(tokens)


@st.composite
def planted(draw):
    tokens = draw(st.integers(2, 400))
    places = draw(st.lists(st.integers(0, tokens - 2), min_size=1, max_size=64, unique=True))
    seed = draw(SEEDS)
    return filler(tokens, seed), places, questions.plant(filler(tokens, seed), places)


@given(planted())
def test_needles_lie_where_they_were_asked_for_and_nothing_else_is_changed(case):
    blank, places, question = case
    ids = question.prompt.ids
    assert ids.dtype == np.uint32
    assert len(question.prompt) == len(blank)
    assert sorted(each.position for each in question.needles) == sorted(places)
    assert [each.key for each in question.needles] == list(range(len(places)))
    assert all(ids[each.position] == codes.needle(each.key, each.value) for each in question.needles)
    assert ids[-1] == codes.ASK
    rest = np.setdiff1d(np.arange(len(blank) - 1), places)
    assert np.array_equal(ids[rest], blank.ids[rest])


@given(planted())
def test_the_answer_names_every_needle_and_then_a_key_that_is_not_there(case):
    _, places, question = case
    right = [codes.answer(each.key, each.value) for each in question.needles]
    absent = [codes.NONE + len(places)] if len(places) < codes.KEYS else []
    assert question.answer == (*right, *absent)
    assert len(question.answer) == question.output_tokens
    assert len({each.value for each in question.needles}) == len(places)


@given(planted())
def test_the_same_filler_and_places_are_the_same_question(case):
    blank, places, question = case
    again = questions.plant(blank, places[::-1])
    assert again.needles == question.needles
    assert again.prompt.digest == question.prompt.digest


@given(st.lists(SEEDS, min_size=2, max_size=2, unique=True))
def test_another_seed_differs_in_its_first_block(seeds):
    one, other = (questions.plant(filler(2000, seed), questions.spread(2000)).prompt.ids[:16] for seed in seeds)
    assert not np.array_equal(one, other)


def test_keys_do_not_lie_in_the_order_in_which_they_are_asked():
    question = questions.plant(filler(5000), questions.spread(5000))
    positions = [each.position for each in question.needles]
    assert positions != sorted(positions)


def test_the_filler_is_not_changed():
    blank = filler(100)
    before = blank.digest
    assert questions.plant(blank, [3]).prompt.digest != before == blank.digest


@given(st.integers(2, 10**7), st.integers(1, 64))
def test_a_spread_goes_from_the_first_token_to_the_last_before_the_ask(tokens, count):
    places = questions.spread(tokens, count)
    assert places[0] == 0
    assert places[-1] == (tokens - 2 if count > 1 else 0)
    assert len(places) == min(count, tokens - 1)
    assert list(places) == sorted(set(places))


@given(st.integers(2, 10**7), st.integers(2, 10**5), st.integers(4, 64))
def test_borders_are_seen_from_both_sides(tokens, size, count):
    places = set(questions.borders(tokens, size, count))
    assert {0, tokens - 2} <= places
    assert len(places) <= count
    assert max(places) <= tokens - 2
    sides = places - {0, tokens - 2}
    assert all(place % size in {0, size - 1} for place in sides)
    assert all((place - 1 if place % size == 0 else place + 1) in places for place in sides)
    assert sides or tokens - 2 <= size + 1


def test_a_depth_is_a_share_of_the_context():
    question = questions.plant(filler(1000), [250])
    assert question.depth(250) == 0.25


@pytest.mark.parametrize(
    ("tokens", "places", "reason"),
    [
        (100, [], "1 to 64 different places"),
        (100, [1, 1], "found 1"),
        (100, range(65), "found 65"),
        (100, [99], "places from 0 to 98"),
        (100, [-1], "found -1"),
        (1, [0], "places from 0 to -1"),
    ],
)
def test_places_that_cannot_be_are_refused(tokens, places, reason):
    with pytest.raises(PromptError, match=reason):
        questions.plant(filler(tokens), places)


def test_filler_that_could_be_a_needle_is_refused():
    with pytest.raises(PromptError, match=r"ordinary_ids = \[8384, 12544\]"):
        questions.plant(PromptFactory(0, "k", (16, 12_544))(1000), [5])


@given(
    tokens=st.integers(200, 2000),
    window=st.integers(140, 3000),
    windowed=st.sets(st.integers(0, 63), min_size=1),
    needles=st.integers(1, 64),
)
def test_a_key_with_a_window_lies_within_it_when_it_is_asked_for(tokens, window, windowed, needles):
    windows = [window if key in windowed else None for key in range(64)]
    question = questions.plant(filler(tokens), questions.spread(tokens, needles, windows), windows)
    seen = {each.key: each.position - questions.first_seen(tokens, each.key, window) for each in question.needles}
    assert all(seen[key] >= 0 for key in windowed & set(seen))


@given(tokens=st.integers(400, 2000), window=st.integers(140, 300), needles=st.integers(32, 63))
def test_both_sides_of_a_window_are_planted(tokens, window, needles):
    """One needle at the first token that is seen, and one, of the key that must be denied, right before what is seen."""
    windows = (window,) * 64
    question = questions.plant(filler(tokens), questions.spread(tokens, needles, windows), windows)
    edges = [each.position - questions.first_seen(tokens, each.key, window) for each in question.needles]
    assert min(edges) == 0
    denied = len(question.needles)
    before = int(question.prompt.ids[questions.first_seen(tokens, denied, window) - 1])
    assert before in {codes.needle(denied, value) for value in range(64)}
    assert question.answer[-1] == codes.NONE + denied


def test_a_place_that_no_layer_sees_any_more_is_refused():
    with pytest.raises(PromptError, match=r"no place is left for key \d+: its layer sees the last 140 tokens"):
        questions.plant(filler(1000), [0, 1, 2], (140,) * 64)
