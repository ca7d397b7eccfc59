"""Degenerate answers: a model that has lost its way says the same words again and again."""

from dataclasses import dataclass
from typing import Final

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
