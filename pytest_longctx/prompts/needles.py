"""
Retrieval prompts: a fact hidden in text with the question at the end, the score of an answer, and the detection of
repetition.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.token_ids import Ids, Sendable
from pytest_longctx.prompts.tokenizer import ModelTokenizer

MATERIALS: Final = (
    "amber",
    "granite",
    "ivory",
    "scarlet",
    "marble",
    "cobalt",
    "silken",
    "crystal",
    "golden",
    "emerald",
)
OBJECTS: Final = (
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
"""Together with `MATERIALS`, the names of the things that needles describe: a hundred pairs."""
_NEAR_TOKENS: Final = 256
"""Maximum distance in tokens by which a needle is moved to the border of a sentence."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A fact, the question about it, and the expected answer."""

    fact: str
    question: str
    expected: str
    asked: str = ""
    """The question alone, for a chat."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Return a random needle: a code of seven digits for one of a hundred things."""
        thing = f"{rng.choice(MATERIALS)} {rng.choice(OBJECTS)}"
        code = str(rng.integers(1_000_000, 10_000_000))
        question = f" Now a question. What is the code of the {thing}? The code of the {thing} is"
        return cls(f" The code of the {thing} is {code}.", question, code, f"What is the code of the {thing}?")


@dataclass(frozen=True, slots=True)
class Haystack:
    """A prompt with its needle. *depth* is the needle's place in the prompt, from 0 (start) to 1 (end)."""

    prompt: Sendable
    needle: Needle
    depth: float


def hide(
    vocabulary: ModelTokenizer, needle: Needle, lead: Ids, hay: Ids, tokens: int, depth: float
) -> tuple[Ids, float]:
    """
    Return a prompt of *tokens* with a needle, made from *lead*, *hay*, the fact and the final question, and the
    position of the fact.

    The fact follows the nearest end of a sentence within 256 tokens. Raises `PromptError`.
    """
    if not 0 <= depth <= 1:
        raise PromptError(
            f"a needle at depth {depth} was requested; the depth must be from 0 (the start) to 1 (the end)"
        )
    fact, question = vocabulary.ids(needle.fact), vocabulary.ids(needle.question)
    length = tokens - lead.size - fact.size - question.size
    if length < 0:
        raise PromptError(f"a haystack of {tokens:,} tokens was requested; the needle alone takes {tokens - length:,}")
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
    Return whether *answer* contains the needle's code as a separate number. Commas and spaces between its digits do not
    count.

    >>> score("It is 4,821,937.", "4821937"), score("48219370", "4821937")
    (True, False)
    """
    digits = r"[ ,]?".join(map(re.escape, expected))
    return re.search(rf"(?<!\d){digits}(?!\d)", answer) is not None


LONGEST_PHRASE: Final = 64
"""Maximum length in words of a phrase that is checked for repetition."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """A repeated phrase, and the number of consecutive repetitions."""

    phrase: str
    times: int


def repetition(answer: str, times: int = 3) -> Repetition | None:
    """
    Return the shortest phrase that the answer about a needle repeats at least *times* times in a row; ``None`` without
    one.

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
