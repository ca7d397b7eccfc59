from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.probe import codes, grading, questions
from pytest_longctx.prompts import PromptFactory

TOKENS = 3000


def question(count):
    return questions.plant(PromptFactory(5, "grade", codes.FILLER_IDS)(TOKENS), questions.spread(TOKENS, count))


QUESTIONS = {count: question(count) for count in (1, 5, 63, 64)}
ASKED = st.sampled_from([*QUESTIONS.values()])


def texts(ids):
    return " ".join(codes.words()[each] for each in ids)


@given(ASKED)
def test_the_right_answer_is_sound_as_ids_and_as_text(asked):
    for graded in (grading.ids(asked, asked.answer), grading.text(asked, texts(asked.answer))):
        assert graded.sound
        assert graded.count("right") == len(asked.needles)
        assert graded.denied is (None if len(asked.needles) == codes.KEYS else True)
        assert str(graded) == f"{len(asked.needles)} of {len(asked.needles)} needles right"


@given(
    ASKED.flatmap(
        lambda asked: st.tuples(st.just(asked), st.sets(st.integers(0, len(asked.needles) - 1)), st.booleans())
    )
)
def test_exactly_the_needles_that_were_not_found_fail_at_their_depths(case):
    asked, damaged, lost = case
    answered = list(asked.answer)
    for key in damaged:
        answered[key] = codes.NONE + key if lost else codes.answer(key, (asked.needles[key].value + 1) % codes.VALUES)
    graded = grading.ids(asked, answered)
    assert {step.needle.key for step in graded.failures} == damaged
    assert {step.outcome for step in graded.failures} <= {"lost" if lost else "wrong value"}
    positions = [step.needle.position for step in graded.failures]
    assert positions == sorted(asked.needles[key].position for key in damaged)
    assert [step.depth for step in graded.failures] == [position / TOKENS for position in positions]
    assert graded.sound == (not damaged)
    assert graded.derailed_at is None


@given(st.integers(0, 62), st.integers(1, 30))
def test_a_chain_that_derails_still_grades_what_it_asked(at, jump):
    asked = QUESTIONS[64]
    answered = list(asked.answer)
    answered[at:] = answered[at + jump :]
    graded = grading.ids(asked, answered)
    skipped = set(range(at, min(at + jump, 64)))
    assert graded.derailed_at == (at if at + jump < 64 else None)
    assert {step.needle.key for step in graded.failures} == skipped
    assert {step.outcome for step in graded.failures} == {"not reached"}
    assert not graded.sound


@given(ASKED, st.integers(0, 63))
def test_an_answer_that_stops_leaves_the_rest_unreached(asked, words):
    graded = grading.ids(asked, asked.answer[:words])
    assert graded.count("not reached") == max(0, len(asked.needles) - words)
    assert graded.count("lost") == 0
    assert graded.derailed_at is None


def test_a_value_for_a_key_that_was_not_planted_is_not_sound():
    asked = QUESTIONS[5]
    graded = grading.ids(asked, [*asked.answer[:5], codes.answer(5, 9)])
    assert graded.denied is False
    assert not graded.sound
    assert "a key without a needle" in str(graded)


def test_words_beyond_the_answer_do_not_count():
    asked = QUESTIONS[5]
    assert grading.ids(asked, [*asked.answer, codes.ASK]).sound


def test_a_word_that_is_no_answer_derails():
    asked = QUESTIONS[5]
    answered = texts(asked.answer).split()
    answered[2] = "once"
    graded = grading.text(asked, " ".join(answered))
    assert graded.derailed_at == 2
    assert [step.outcome for step in graded.failures] == ["not reached"]


def test_the_first_answer_about_a_key_counts():
    asked = QUESTIONS[5]
    first = asked.answer[0]
    graded = grading.ids(asked, [first, codes.NONE, *asked.answer[2:]])
    assert graded.derailed_at == 1
    assert [(step.needle.key, step.outcome) for step in graded.failures] == [(1, "not reached")]


def test_a_grade_says_where():
    asked = QUESTIONS[64]
    behind = [each.key for each in asked.needles if each.position >= 2900]
    answered = [codes.NONE + key if key in behind else token for key, token in enumerate(asked.answer)]
    assert str(grading.ids(asked, answered)) == "61 of 64 needles right; 3 lost, token 2,903 (96.8%) to 2,998 (99.9%)"
