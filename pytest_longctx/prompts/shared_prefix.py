"""
Prompts that share a prefix, on purpose.

A cold and a warm request are the same prompt, sent twice. What is drawn anew is unique in its first block, so a prefix cache
can answer what is shared and nothing more.
"""

from collections.abc import Callable, Iterator

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.token_ids import LONGEST_TOKENS, Prompt

Draw = Callable[[int], Prompt]
"""A new prompt of so many tokens, such as a `PromptFactory`."""


def turns(draw: Draw, first: int, answer: int, new: int, count: int) -> Iterator[Prompt]:
    """
    *count* turns of one conversation: each is the one before, *answer* tokens in place of its answer, and *new* tokens.

    Turn k (from 0) has first + k * (answer + new) tokens. Raises `PromptError`.
    """
    _fits(first + (count - 1) * (answer + new))
    prompt = draw(first)
    yield prompt
    for number in range(1, count):
        prompt = _longer(prompt, draw(answer + new), f"turn {number}")
        yield prompt


def users(draw: Draw, document: int, question: int, count: int) -> Iterator[Prompt]:
    """*count* prompts of document + question tokens: the same document, and a question of each user's own."""
    _fits(document + question)
    head = draw(document)
    for number in range(count):
        yield _longer(head, draw(question), f"user {number}")


def _longer(head: Prompt, tail: Prompt, name: str) -> Prompt:
    ids = np.concatenate((head.ids, tail.ids))
    ids.flags.writeable = False
    return Prompt(ids, head.seed, f"{tail.key}/{name}")


def _fits(tokens: int) -> None:
    if tokens > LONGEST_TOKENS:
        raise PromptError(f"prompts of {tokens:,} tokens would come of this; up to {LONGEST_TOKENS:,} can be had")
