"""Search for the longest served context, and check that a server recovers after a request that may exceed its capacity."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pytest_longctx.client.exchange import Exchange
from pytest_longctx.observation import Observation
from pytest_longctx.units import duration


@dataclass(frozen=True, slots=True)
class Try:
    """One attempted length. The result is whether it worked, or the server's message; None if neither served nor refused."""

    tokens: int
    worked: bool | None
    said: str = ""


def longest(low: int, high: int, attempt: Callable[[int], Try]) -> tuple[Try, ...]:
    """
    Search *low* to *high* tokens for the longest length that works. Return every attempt; see `found`.

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
    """Return the longest length that worked; None if none did."""
    return max((each.tokens for each in tries if each.worked), default=None)


def _limits(tried: Try) -> list[int]:
    """Return candidate limits from a refusal: each number and the next higher one, to test both sides of the limit."""
    numbers = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\d", tried.said)]
    return [length for number in numbers if number != tried.tokens for length in (number, number + 1)]


CANARY_TOKENS: Final = 8
"""Prompt length of the canary. It fits into any KV pool and needs almost no work."""


def after(seen: Observation, canary: Exchange) -> Observation:
    """Combine *seen*, the result of a finished or cancelled request, with the result of the *canary* sent after it."""
    small = f"a request of {canary.sent_tokens} tokens after it"
    well = canary.ending == "complete"
    took_s = canary.ended_s - canary.started_s
    if well:
        result = f"{small} was answered in {duration(took_s)}: the server has recovered"
    elif canary.ending == "unfinished":
        result = f"{small} was not answered in {duration(took_s)} while the server was still working: {canary.detail}"
    else:
        message = canary.refusal.text if canary.refusal else canary.detail
        result = f"{small} was not answered ({canary.ending}: {message}): the server has not recovered"
    recovered = None if canary.ending == "unfinished" else float(well)
    metrics = {**seen.metrics, "recovered": recovered, "canary_s": took_s if well else None}
    return replace(seen, metrics=metrics, said="; ".join(filter(None, (seen.said, result))))
