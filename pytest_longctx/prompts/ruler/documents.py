"""Questions on documents among other documents: ``qa_1`` from SQuAD, ``qa_2`` from HotpotQA."""

from collections.abc import Iterator
from itertools import cycle
from typing import Final

import numpy as np

from pytest_longctx.prompts.ruler import exact_length, insertion
from pytest_longctx.prompts.ruler.exact_length import Draft, Room
from pytest_longctx.prompts.ruler.niah import Written
from pytest_longctx.prompts.ruler.published_data import Asked, Material, Questions
from pytest_longctx.prompts.ruler.tasks import Task

_DRAWN: Final = 64
"""Questions drawn until the documents of one fit."""

_MOST_FILLED: Final = 0.9
"""Share of the context that a question's own documents may take."""


def write(task: Task, material: Material, room: Room, rng: np.random.Generator) -> Written:
    """
    Return the text of *task* in *room*: documents, among them the documents of the question at random places, and the question.

    The last document, which the question does not need, is cut at the exact length. Raises `PromptError`.
    """
    questions = material.questions(task.questions)
    asked = _drawn(questions, room, rng)
    before, after = insertion.split(material.templates["qa"])
    after = after.replace("{query}", asked.question)

    def make(chars: int) -> Draft:
        return _draft(material.document, questions, asked, chars, rng)

    return Written(exact_length.cut(room, before, make, after), asked.answers)


def _drawn(questions: Questions, room: Room, rng: np.random.Generator) -> Asked:
    """Return a random question whose own documents fit into the prompt."""
    least = room.tokens
    for _ in range(_DRAWN):
        asked = questions.asked[int(rng.integers(len(questions.asked)))]
        needed = room.vocabulary.count("\n\n".join(questions.documents[each] for each in asked.own))
        if needed <= _MOST_FILLED * (room.tokens - room.count(asked.question)) - 100:  # the instruction takes under 100
            return asked
        least = min(least, needed)
    raise exact_length.too_small(room.tokens, "the documents of none of the drawn questions fit into the prompt")


def _draft(heading: str, questions: Questions, asked: Asked, chars: int, rng: np.random.Generator) -> Draft:
    """Return documents of about *chars* characters: the documents of the question completely, then other documents."""
    own = [questions.documents[each] for each in asked.own]
    left, inside, others = chars - sum(len(each) for each in own), list[str](), _others(questions, asked, rng)
    for text in others:
        left -= len(text) + len(heading)
        if left < 0:
            break
        inside.append(text)
    mixed = [*own, *inside]
    mixed = [mixed[place] for place in rng.permutation(len(mixed))]
    last = max(mixed.index(each) for each in own)
    written = [_headed(heading, number, text) for number, text in enumerate(mixed, 1)]
    least = len("\n\n".join(written[: last + 1]))
    made, most = sum(len(each) + 2 for each in written), exact_length.enough(chars)
    for text in others:
        written.append(_headed(heading, len(written) + 1, text))
        made += len(written[-1]) + 2
        if made > most:
            break
    return Draft("\n\n".join(written), least)


def _headed(heading: str, number: int, text: str) -> str:
    return heading.replace("{i}", str(number)).replace("{document}", text)


def _others(questions: Questions, asked: Asked, rng: np.random.Generator) -> Iterator[str]:
    """Yield documents of the question's article, then all other documents, without end. A small data set repeats."""
    near = [asked.near[place] for place in rng.permutation(len(asked.near))]
    known = {*asked.own, *near}
    rest = [int(each) for each in rng.permutation(len(questions.documents)) if int(each) not in known]
    return (questions.documents[each] for each in cycle([*near, *rest]))
