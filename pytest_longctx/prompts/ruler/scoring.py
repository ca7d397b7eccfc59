"""The published score of an answer to a RULER task, from 0 to 1 (published: 0 to 100)."""

import re
from collections.abc import Sequence
from typing import Final, Literal

_CONTROL: Final = re.compile(r"[\x00-\x1f]")


def score(answer: str, expected: Sequence[str], scored: Literal["every", "any"]) -> float:
    """
    Return the score of *answer*: the share of the *expected* texts that it contains, or 1 if it contains any of them.

    Letter case is ignored. Control characters count as line breaks, and spaces around the answer are removed.

    >>> score("They are 12 and 34.", ["12", "34", "56", "78"], "every"), score("In PARIS", ["Paris", "France"], "any")
    (0.5, 1.0)
    """
    said = _CONTROL.sub("\n", answer.strip()).strip().lower()
    contained = [each.lower() in said for each in expected]
    return float(any(contained)) if scored == "any" else sum(contained) / len(contained)
