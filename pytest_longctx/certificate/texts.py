"""Texts to send: facts with codes in ordinary text, the question for the codes, and filler words of one token each."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from pytest_longctx.certificate.dialects import Turn
from pytest_longctx.prompts.corpus import endless
from pytest_longctx.prompts.needles import MATERIALS, OBJECTS

WORDS: Final = (" the", " and", " for", " was", " you", " has", " his", " her")
"""Filler words of three letters, which have an equal number of tokens in every known tokenizer."""
OPENING_WORDS: Final = 24
"""Number of random words at the start of a filler, so that no two prompts share their first sixteen tokens."""
COUNTING: Final = "Task: count from 1 to 900 in digits, separated by commas, and write nothing else."


@dataclass(frozen=True, slots=True)
class Fact:
    """A code that a model cannot guess, at a *depth* of the text from 0, the start, to 1, the end."""

    thing: str
    code: str
    depth: float

    @property
    def sentence(self) -> str:
        return f"The code of the {self.thing} is {self.code}. "


@dataclass(frozen=True, slots=True)
class Quest:
    """A text with facts. The question for some of the facts is at its start and at its end."""

    turns: tuple[Turn, ...] = field(repr=False)
    asked: tuple[Fact, ...]

    @property
    def characters(self) -> int:
        return sum(len(text) for _, text in self.turns)

    def found(self, answer: str) -> tuple[bool, ...]:
        """
        Return, for each requested fact, whether *answer* contains its code as a separate number.

        >>> Quest((), (Fact("a", "1234567", 0), Fact("b", "7654321", 1))).found("1,234,567 and 97654321")
        (True, False)
        """
        return tuple(has(answer, fact.code) for fact in self.asked)


def has(answer: str, code: str) -> bool:
    """
    Return whether *answer* has the *code* of a certificate's text as a separate number, also with commas or blanks
    inside.
    """
    digits = r"[ ,]?".join(code)
    return re.search(rf"(?<!\d){digits}(?!\d)", answer) is not None


def facts(rng: np.random.Generator, count: int) -> tuple[Fact, ...]:
    """Return *count* random facts (things with codes), spread evenly over a text."""
    places = rng.choice(len(MATERIALS) * len(OBJECTS), size=count, replace=False)
    things = [f"{MATERIALS[place // 10]} {OBJECTS[place % 10]}" for place in places]
    codes = [str(code) for code in rng.choice(9_000_000, size=count, replace=False) + 1_000_000]
    depths = [place / max(1, count - 1) for place in range(count)]
    return tuple(Fact(*each) for each in zip(things, codes, depths, strict=True))


def task(asked: Iterable[Fact]) -> str:
    """
    Return the question for the codes of the facts *asked*.

    >>> task([Fact("amber falcon", "1", 0)])[:42]
    'Task: give the code of the amber falcon. R'
    """
    things = [f"the {fact.thing}" for fact in asked]
    if len(things) == 1:
        return f"Task: give the code of {things[0]}. Reply with the code only; write unknown if the text does not state it."
    listed = f"{', '.join(things[:-1])} and {things[-1]}"
    return (
        f"Task: give the codes of {listed}, in this order. Reply with the codes only, separated by commas; "
        "write unknown for a code that the text does not state."
    )


def story(rng: np.random.Generator, characters: int, stated: tuple[Fact, ...]) -> list[str]:
    """Return sentences of about *characters* characters in total, with each fact at its depth."""
    seed = int(rng.integers(2**32))
    text, source = "", endless(seed)
    while len(text) < characters:
        text += next(source)
    sentences = [f"{each}. " for each in text[:characters].split(". ")[:-1]] or [""]
    made, done = [], 0
    for fact in sorted(stated, key=lambda each: each.depth):
        upto = round(fact.depth * len(sentences))
        made += [*sentences[done:upto], fact.sentence]
        done = upto
    return [*made, *sentences[done:]]


def quest(rng: np.random.Generator, characters: int, count: int, *, turns: int = 1) -> Quest:
    """
    Return a text of about *characters* characters with *count* facts and the question for all of them; with *turns*, a
    conversation.
    """
    drawn = facts(rng, count)
    asked = task(drawn)
    frame = 2 * len(asked) + sum(len(fact.sentence) for fact in drawn) + 8
    parts = story(rng, max(0, characters - frame), drawn)
    if turns == 1:
        return Quest((("user", f"{asked}\n\n{''.join(parts)}\n\n{asked}"),), drawn)
    borders = [round(place * len(parts) / turns) for place in range(turns + 1)]
    pieces = ["".join(parts[low:high]).strip() for low, high in pairwise(borders)]
    talk: list[Turn] = []
    for piece in pieces:
        talk += [("user", piece or "Go on."), ("assistant", "I have read this part.")]
    first, *rest = talk
    return Quest((("user", f"{asked}\n\n{first[1]}"), *rest, ("user", asked)), drawn)


def single(whole: Quest, fact: Fact) -> Quest:
    """Return the text of *whole* with the question for one *fact* alone."""
    old, new = task(whole.asked), task((fact,))
    return Quest(tuple((role, text.replace(old, new)) for role, text in whole.turns), (fact,))


def filler(rng: np.random.Generator, words: tuple[str, ...], count: int, *, tail: str = "") -> tuple[Turn, ...]:
    """Return a prompt of *count* filler *words* and *tail*. The first words are random."""
    opening = "".join(words[place] for place in rng.integers(0, len(words), size=min(count, OPENING_WORDS)))
    return (("user", f"Note:{opening}{words[0] * max(0, count - OPENING_WORDS)}{tail}"),)
