import pytest

from pytest_longctx.findings import retrieval
from pytest_longctx.findings.intervals import interval
from pytest_longctx.observation import Observation
from pytest_longctx.probe import codes, grading, questions
from pytest_longctx.prompts import PromptFactory
from pytest_longctx.prompts.needles import Haystack, Needle
from pytest_longctx.prompts.ruler.build import Posed
from pytest_longctx.prompts.ruler.tasks import TASKS

PROMPT = PromptFactory(1, "recall", codes.FILLER_IDS)
SEEN = Observation("serves", {"prompt_tokens": 500, "cached_share": 0.0}, sent_tokens=500)
QUESTION = questions.plant(PROMPT(500), questions.spread(500, 4))
RIGHT = [codes.words()[i] for i in QUESTION.answer]


def retrieved(words):
    return retrieval.from_probe(SEEN, grading.text(QUESTION, " ".join(words)))


def test_a_right_answer_is_counted_and_needs_no_words():
    found = retrieved(RIGHT)
    assert (found.metrics["needles"], found.metrics["needles_right"], found.metrics["made_up_answers"]) == (4, 4, 0)
    assert (found.metrics["first_failed_depth"], found.said) == (None, "")
    assert found.metrics["prompt_tokens"] == 500


def test_a_lost_needle_is_named_by_its_depth():
    lost = QUESTION.needles[2]
    found = retrieved([*RIGHT[:2], "none02", *RIGHT[3:]])
    assert (found.metrics["needles_right"], found.metrics["first_failed_depth"]) == (3, lost.position / 500)
    assert f"1 lost, token {lost.position}" in found.said


def test_an_answer_to_a_key_that_was_never_planted_is_made_up():
    assert retrieved([*RIGHT[:4], "a04.11"]).metrics["made_up_answers"] == 1


def test_the_ladder_gives_bits_or_nothing():
    kept = " ".join([*(f"kept{i:02d}" for i in (1, 2, 3)), *(f"erased{i:02d}" for i in range(4, codes.RUNGS + 1))])
    found = retrieval.measured(SEEN, grading.ladder_text(kept)).metrics
    assert (found["kv_mantissa_bits"], found["kv_relative_step"], found["kv_ladder_breaks"]) == (3, 0.125, 0)
    assert retrieval.measured(SEEN, grading.ladder_text("w1 w2")).metrics["kv_mantissa_bits"] is None


def hay(depth):
    return Haystack(PROMPT(500), Needle("the code is 1234567", "what is it?", "1234567"), depth)


def test_facts_are_scored_and_misses_quoted():
    answers = [(hay(0.0), SEEN, " 1,234,567."), (hay(0.5), SEEN, "it is the the the the"), (hay(1.0), SEEN, "12345678")]
    found = retrieval.from_haystacks(answers)
    figures = found.metrics
    assert (figures["needles"], figures["needles_right"], figures["repetitive_answers"]) == (3, 1, 1)
    assert figures["cached_share"] == 0.0
    assert found.said == "500 tokens at depth 50%: 'it is the the the the'; 500 tokens at depth 100%: '12345678'"


def test_a_request_that_was_not_served_stands_for_all():
    refused = Observation("refuses", said="too long")
    assert retrieval.from_haystacks([(hay(0.0), SEEN, "1234567"), (hay(1.0), refused, "")]) is refused


def test_places_are_scored_by_depth_and_what_was_not_asked_says_nothing():
    def places(words):
        return retrieval.places(grading.text(QUESTION, " ".join(words)))

    steps = grading.text(QUESTION, " ".join(RIGHT)).steps
    assert places(RIGHT) == tuple((step.depth, 1.0) for step in steps)
    lost = places([*RIGHT[:2], "none02", *RIGHT[3:]])
    assert [score for _, score in lost] == [1.0, 1.0, 0.0] + [1.0] * (len(steps) - 3)
    assert len(places(RIGHT[:2])) == 2
    assert places([]) == ()


def test_a_prompt_that_was_counted_otherwise_is_reported():
    other = Observation("serves", {"prompt_tokens": 501}, sent_tokens=500)
    found = retrieval.from_haystacks([(hay(0.0), SEEN, "1234567"), (hay(1.0), other, "1234567")])
    assert found.metrics["miscounted_prompts"] == 1


def test_continuations_are_counted_and_wrong_ones_quoted():
    asked = [
        ("The capital of France is", "Paris", SEEN, " Paris, which"),
        ("The opposite of hot is", "cold", SEEN, ' "Cold".'),
        ("Monday, Tuesday,", "Wednesday", SEEN, " Tuesday, Tuesday"),
        ("2, 4, 6, 8,", "10", SEEN, " 100"),
    ]
    found = retrieval.from_continuations(asked)
    assert (found.metrics["continuations"], found.metrics["continuations_right"]) == (4, 2)
    assert found.said == "'Monday, Tuesday,' 'Tuesday, Tuesday'; '2, 4, 6, 8,' '100'"


def test_a_continuation_that_was_not_served_stands_for_all():
    refused = Observation("refuses", said="too long")
    assert retrieval.from_continuations([("a", "b", SEEN, "b"), ("c", "d", refused, "")]) is refused


def posed(task, *expected):
    return Posed(TASKS[task], PROMPT(500), expected)


def test_answers_to_a_task_have_their_mean_score_and_its_interval():
    four = ("1111111", "2222222", "3333333", "4444444")
    miscounted = Observation("serves", {"prompt_tokens": 501}, sent_tokens=500)
    found = retrieval.from_ruler(
        [
            (posed("niah_multivalue", *four), SEEN, " 1111111, 2222222, 3333333 and 4444444."),
            (posed("niah_multivalue", *four), SEEN, "4444444"),
            (posed("niah_multivalue", *four), miscounted, " \n"),
        ]
    )
    assert found.outcome == "serves"
    assert found.metrics == {
        "ruler_prompts": 3,
        "ruler_score": pytest.approx(1.25 / 3),
        "ruler_score_low": pytest.approx(interval(1.25, 3)[0]),
        "ruler_score_high": pytest.approx(interval(1.25, 3)[1]),
        "empty_answers": 1,
        "miscounted_prompts": 1,
    }
    assert found.said.startswith("500 tokens: '4444444' for '1111111, 2222222")


def test_one_right_answer_of_several_is_enough_for_a_question():
    found = retrieval.from_ruler([(posed("qa_1", "Paris", "the capital"), SEEN, "It is PARIS.")])
    assert (found.metrics["ruler_score"], found.said) == (1, "")


def test_a_task_that_was_not_served_stands_for_all():
    refused = Observation("refuses", said="too long")
    assert retrieval.from_ruler([(posed("vt", "A"), SEEN, "A"), (posed("vt", "B"), refused, "")]) is refused


@pytest.mark.parametrize(
    ("answer", "right"),
    [(" Paris.", True), ("\nparis", True), ("Paris", True), (" Parisian", False), (" in Paris", False), ("", False)],
)
def test_a_continuation_begins_with_the_expected_words(answer, right):
    assert retrieval.continues(answer, "Paris") is right
