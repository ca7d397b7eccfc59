"""A fact hidden in a haystack, the question at the end, the score, and whether an answer only repeats itself."""

import re
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.token_ids import Ids, Prompt
from pytest_longctx.prompts.tokenizer import ModelTokenizer

_MATERIALS = ("amber", "granite", "ivory", "scarlet", "marble", "cobalt", "silken", "crystal", "golden", "emerald")
_OBJECTS = (
    "falcon",
    "compass",
    "citadel",
    "orchid",
    "telescope",
    "glacier",
    "pyramid",
    "dolphin",
    "volcano",
    "chariot",
)
_NEAR_TOKENS: Final = 256
"""How far a needle may move to stand between two sentences."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A fact, the question that asks for it, and what must come back."""

    fact: str
    question: str
    expected: str

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """A code of seven digits for one of a hundred things."""
        thing = f"{rng.choice(_MATERIALS)} {rng.choice(_OBJECTS)}"
        code = str(rng.integers(1_000_000, 10_000_000))
        question = f" Now a question. What is the code of the {thing}? The code of the {thing} is"
        return cls(f" The code of the {thing} is {code}.", question, code)


@dataclass(frozen=True, slots=True)
class Haystack:
    """A prompt with its needle; *depth* is where the needle came to lie, from 0 (start) to 1 (end)."""

    prompt: Prompt
    needle: Needle
    depth: float


def hide(
    vocabulary: ModelTokenizer, needle: Needle, lead: Ids, hay: Ids, tokens: int, depth: float
) -> tuple[Ids, float]:
    """
    *lead*, as much of *hay* as makes *tokens* in all, the fact in it, the question last; and where the fact came to lie.

    The fact stands after the nearest end of a sentence within 256 tokens. Raises `PromptError`.
    """
    if not 0 <= depth <= 1:
        raise PromptError(f"a needle at depth {depth} was asked for; from 0 (the start) to 1 (the end) can be had")
    fact, question = vocabulary.ids(needle.fact), vocabulary.ids(needle.question)
    length = tokens - lead.size - fact.size - question.size
    if length < 0:
        raise PromptError(f"a haystack of {tokens:,} tokens was asked for; its needle alone takes {tokens - length:,}")
    hay = hay[:length]
    at = _between_sentences(vocabulary, hay, round(depth * length))
    return np.concatenate((lead, hay[:at], fact, hay[at:], question)), at / length if length else 0.0


def _between_sentences(vocabulary: ModelTokenizer, hay: Ids, wanted: int) -> int:
    first = max(0, wanted - _NEAR_TOKENS)
    ends = first + 1 + np.flatnonzero(np.isin(hay[first : wanted + _NEAR_TOKENS], vocabulary.stops))
    if wanted in (0, hay.size) or not ends.size:
        return wanted
    return int(ends[np.argmin(np.abs(ends - wanted))])


def score(answer: str, expected: str) -> bool:
    """
    Whether *expected* stands in *answer* as a number of its own; commas and spaces between its digits do not matter.

    >>> score("It is 4,821,937.", "4821937"), score("48219370", "4821937")
    (True, False)
    """
    digits = r"[ ,]?".join(map(re.escape, expected))
    return re.search(rf"(?<!\d){digits}(?!\d)", answer) is not None


LONGEST_PHRASE: Final = 64
"""Words of the longest phrase whose repetition is looked for."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """What is said again, and how often in a row."""

    phrase: str
    times: int


def repetition(answer: str, times: int = 3) -> Repetition | None:
    """
    The shortest phrase that *answer* says at least *times* times in a row, or None.

    >>> repetition("it is the the the the end")
    Repetition(phrase='the', times=4)
    """
    words = answer.split()
    for period in range(1, min(LONGEST_PHRASE, len(words) // times) + 1):
        run = start = longest = 0
        for place in range(period, len(words)):
            run = run + 1 if words[place] == words[place - period] else 0
            if run > longest:
                longest, start = run, place - run - period + 1
        if longest // period + 1 >= times:
            return Repetition(" ".join(words[start : start + period]), longest // period + 1)
    return None
