import pytest

from pytest_longctx.prompts.ruler.scoring import score
from pytest_longctx.prompts.ruler.tasks import TASKS


@pytest.mark.parametrize(
    ("answer", "expected", "scored", "wanted"),
    [
        ("1234567", ["1234567"], "every", 1.0),
        ("12345678", ["1234567"], "every", 1.0),  # published: contained is enough
        ("the bridge, the LAMP", ["Lamp", "Bridge"], "every", 1.0),
        ("one", ["one", "two", "three", "four", "five"], "every", 0.2),
        ("", ["one"], "every", 0.0),
        ("   ", ["one"], "any", 0.0),
        ("It was in Paris.", ["France", "paris"], "any", 1.0),
        ("one\x00two", ["one\ntwo"], "every", 1.0),  # a control character becomes a line break
        ("one\ttwo", ["one\ttwo"], "every", 0.0),
        ("a", ["a", "a", "b"], "every", 2 / 3),
    ],
)
def test_a_score_is_the_published_one(answer, expected, scored, wanted):
    assert score(answer, expected, scored) == pytest.approx(wanted)


def test_thirteen_tasks_and_only_questions_on_documents_accept_any_answer():
    assert len(TASKS) == 13
    assert [name for name, task in TASKS.items() if task.scored == "any"] == ["qa_1", "qa_2"]
