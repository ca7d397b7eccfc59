"""Prompts with common beginnings, each with a provable answer if the model is a probe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.probe import codes, grading, questions
from pytest_longctx.probe.grading import Grade
from pytest_longctx.probe.questions import EVERYTHING, Needle, Question, Windows
from pytest_longctx.prompts import Ids, Prompt

Draw = Callable[[int], Prompt]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A prompt and the length of its answer. *question* has the right answer; None for a model without provable answers."""

    prompt: Prompt
    output_tokens: int
    question: Question | None = None
    windows: Windows = EVERYTHING
    """For each key of *question*, the number of tokens that its layer sees."""

    @property
    def name(self) -> str:
        """Name of the task. Tasks with equal prompts have equal names."""
        return self.prompt.digest

    def grade(self, text: str) -> Grade | None:
        """Return the grade of the answer *text* to the task; None if the task has no provable answer."""
        return grading.text(self.question, text) if self.question else None

    def needle_at(self, index: int) -> Needle | None:
        """
        Return the needle that token *index* of the answer reads from the task's prompt; None if the token reads no
        needle.
        """
        needles = self.question.needles if self.question else ()
        return needles[index] if index < len(needles) else None


def context(task: Task, answer: Sequence[int]) -> Ids:
    """Return the tokens that a KV cache may have after *task* was answered: the ids of its prompt and of *answer*."""
    return np.concatenate((task.prompt.ids, np.asarray(answer, dtype=np.uint32)))


def common_prefix(one: Ids, other: Ids) -> int:
    """
    Return the number of equal tokens at the start of two contexts.

    >>> common_prefix(np.array([4, 5, 6]), np.array([4, 5, 7, 8]))
    2
    """
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if differ.size else length


def of(question: Question, windows: Windows = EVERYTHING) -> Task:
    """Return the task of a probe's question: its prompt and its right answer."""
    return Task(question.prompt, question.output_tokens, question, windows)


def new(
    draw: Draw,
    tokens: int,
    output_tokens: int,
    *,
    probe: bool,
    border: int | None = None,
    windows: Windows = EVERYTHING,
) -> Task:
    """
    Return a task with a new prompt of *tokens*. For a probe, *border* adds needles on both sides of that position.

    With a window, the last key has only one needle, one token too far back, and must be denied. Raises `PromptError` if
    the prompt is too short.
    """
    filler = draw(tokens)
    if not probe:
        return Task(filler, output_tokens)
    count = codes.KEYS if windows[-1] is None else codes.KEYS - 1
    beside = [] if border is None else [at for at in range(border - 2, border + 2) if 0 <= at <= tokens - 2]
    return of(questions.plant(filler, _places(tokens, count, beside, windows), windows), windows)


def _places(tokens: int, count: int, beside: Sequence[int], windows: Windows) -> list[int]:
    """
    Return at most *count* needle places over a task's whole prompt: *beside* a border, and others that the windows
    allow.
    """
    first = max((questions.first_seen(tokens, key, window) for key, window in enumerate(windows) if window), default=0)
    if all(windows):
        beside = [at for at in beside if at >= first]  # else no key is left that sees it
    even = [at for at in questions.spread(tokens, count, windows) if at not in beside]
    spare = max(0, len(even) + len(beside) - count)
    # What lies before the last of the windows is wanted by the fewest keys.
    before = [at for at in even if at < first]
    free = before if len(before) >= spare else even
    dropped = {free[round(i)] for i in np.linspace(0, len(free) - 1, spare)}
    return sorted({*(at for at in even if at not in dropped), *beside})


def other_tail(task: Task, shared: int, draw: Draw) -> Task:
    """
    Return a task as long as *task*, with equal first *shared* tokens and a different next token.

    Needles of the tail keep their places and get other values, so a block of the wrong tail gives a wrong answer.
    Raises `PromptError` if no token before the last can differ.
    """
    tokens = len(task.prompt)
    if not 0 <= shared <= tokens - 2:
        raise PromptError(f"a prompt of {tokens:,} tokens cannot share {shared:,} of them and then differ")
    filler = draw(tokens)
    ids: Ids = filler.ids.copy()
    ids[:shared] = task.prompt.ids[:shared]
    if ids[shared] == task.prompt.ids[shared]:
        ids[shared] = filler.ids[shared - 1] if filler.ids[shared - 1] != ids[shared] else filler.ids[shared - 2]
    key = f"{task.prompt.key}, another tail from {shared}"
    # Each tail has values of its own, so that one tail read in place of another gives wrong ones.
    shift = 1 + int(filler.ids[-1]) % (codes.VALUES - 1)
    if task.question is None:
        return Task(_frozen(ids, task.prompt.seed, key), task.output_tokens)
    needles = tuple(
        needle
        if needle.position < shared
        else Needle(needle.key, (needle.value + shift) % codes.VALUES, needle.position)
        for needle in task.question.needles
    )
    return of(_planted(ids, needles, task.prompt.seed, key), task.windows)


def other_beginning(task: Task, tokens: int, draw: Draw) -> Task:
    """Return a task that differs from *task* in its first *tokens*: other filler, and other values of needles."""
    ids: Ids = task.prompt.ids.copy()
    ids[:tokens] = draw(len(ids)).ids[:tokens]
    key = f"{task.prompt.key}, another beginning of {tokens}"
    if task.question is None:
        return Task(_frozen(ids, task.prompt.seed, key), task.output_tokens)
    needles = tuple(
        Needle(each.key, (each.value + 1) % codes.VALUES, each.position) if each.position < tokens else each
        for each in task.question.needles
    )
    return of(_planted(ids, needles, task.prompt.seed, key), task.windows)


def after(task: Task, answer: Sequence[int], draw: Draw, tokens: int) -> Task:
    """
    Return the task of a conversation's next turn: the prompt of *task*, its *answer*, *tokens* new ones, and the same
    question.
    """
    ids = np.concatenate((task.prompt.ids, np.asarray(answer, dtype=np.uint32), draw(tokens).ids))
    key = f"{task.prompt.key}, the next turn"
    if task.question is None:
        return Task(_frozen(ids, task.prompt.seed, key), task.output_tokens)
    needles = _moved(task, len(ids), len(ids) - tokens)
    return of(_planted(ids, needles, task.prompt.seed, key), task.windows)


def after_reversed(task: Task, answer: Sequence[int], draw: Draw, tokens: int) -> Task:
    """
    Return the task of `after` with the right answer to the new task, last token first, in place of *answer*. For a
    model without a provable answer, *answer* itself is reversed.
    """
    following = after(task, answer, draw, tokens)
    right = following.question.answer[: len(answer)] if following.question else answer
    return after(task, [*right, *answer[len(right) :]][::-1], draw, tokens)


def _moved(task: Task, tokens: int, begin: int) -> tuple[Needle, ...]:
    """
    Return the needles of *task* for a prompt of *tokens* with new tokens from *begin* on.

    If a layer no longer sees its needle, the needle gets a place among the new tokens and another value. Raises
    `PromptError` if there are too few.
    """
    needles = task.question.needles if task.question else ()
    seen = {
        needle.key: questions.first_seen(tokens, needle.key, task.windows[needle.key] or tokens * 2)
        for needle in needles
    }
    free = list(range(begin, tokens - 1))
    moved = {}
    for needle in sorted(needles, key=lambda each: -seen[each.key]):
        if needle.position >= seen[needle.key]:
            continue
        fitting = [at for at in free if at >= seen[needle.key]]
        if not fitting:
            raise PromptError(
                f"no place is left for needle {needle.key}: it must lie at or after token {seen[needle.key]:,} of {tokens:,}"
            )
        free.remove(fitting[0])
        moved[needle.key] = Needle(needle.key, (needle.value + 1) % codes.VALUES, fitting[0])
    return tuple(moved.get(needle.key, needle) for needle in needles)


def _planted(ids: Ids, needles: tuple[Needle, ...], seed: int, key: str) -> Question:
    for needle in needles:
        ids[needle.position] = codes.needle(needle.key, needle.value)
    ids[-1] = codes.ASK
    return Question(_frozen(ids, seed, key), needles)


def _frozen(ids: Ids, seed: int, key: str) -> Prompt:
    ids.flags.writeable = False
    return Prompt(ids, seed, key)
