"""Search for the longest context that a server serves: bisection, with the numbers in refusals as candidates."""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Try:
    """
    One attempted length and its result: whether it worked, and the server's message. None if neither served nor
    refused.
    """

    tokens: int
    worked: bool | None
    said: str = ""


def longest(low: int, high: int, attempt: Callable[[int], Try]) -> tuple[Try, ...]:
    """
    Search *low* to *high* tokens for the longest length that works, and return every attempt; see `found`.

    The search assumes that every length below a working one works too. It tries each number in a refusal as the limit,
    and the next longer length. A server that reports its limit takes three attempts, any other log2(high - low) + 2.
    The search ends at an attempt that is neither served nor refused: a server that hangs or dies gets no further
    request.
    """
    works, fails, length = low - 1, high + 1, high  # lengths below *low* are not searched
    tries: list[Try] = []
    hinted: list[int] = []
    while fails - works > 1:
        tries.append(attempt(length))
        if tries[-1].worked is None:
            break
        if tries[-1].worked:
            works = length
        else:
            fails = length
            hinted += _limits(tries[-1])
        inside = [hint for hint in hinted if works < hint < fails]
        length = inside[0] if inside else (works + fails) // 2
    return tuple(tries)


def found(tries: tuple[Try, ...]) -> int | None:
    """Return the longest length that worked; None if no length worked."""
    return max((each.tokens for each in tries if each.worked), default=None)


def _limits(tried: Try) -> list[int]:
    """Return candidate limits from a refusal: each number and its successor, to test both sides of the limit."""
    numbers = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\d", tried.said)]
    return [length for number in numbers if number != tried.tokens for length in (number, number + 1)]
