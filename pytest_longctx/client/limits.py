"""Search for the longest context that is served, and judge a server after a request that it may not hold."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pytest_longctx.client.exchange import Exchange
from pytest_longctx.observation import Observation
from pytest_longctx.units import duration


@dataclass(frozen=True, slots=True)
class Try:
    """One length that was tried: whether it worked, and the server's words if not; None: it neither worked nor was refused."""

    tokens: int
    worked: bool | None
    said: str = ""


def longest(low: int, high: int, attempt: Callable[[int], Try]) -> tuple[Try, ...]:
    """
    Every try on the way to the longest of *low* to *high* tokens that works; see `found`.

    Takes it that what works at some length works at all shorter ones. Numbers in a refusal are tried as limits, the next
    longer one beside them; so a server that tells its limit is found out in three tries, any other in log2(high - low) + 2.
    A try that neither worked nor was refused ends the search: a server that hangs or dies is not asked again.
    """
    works, fails, length = low - 1, high + 1, high  # nothing shorter than *low* is of interest
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
    """The longest length that worked; None where none did."""
    return max((each.tokens for each in tries if each.worked), default=None)


def _limits(tried: Try) -> list[int]:
    """Lengths that a refusal may mean: each number in it, and the one above, so that the border is tested on both sides."""
    numbers = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\d", tried.said)]
    return [length for number in numbers if number != tried.tokens for length in (number, number + 1)]


CANARY_TOKENS: Final = 8
"""Prompt of the small request: it fits into any pool, and needs no work to speak of."""


def after(seen: Observation, canary: Exchange) -> Observation:
    """*seen* of a request that is over, answered or given up, with what became of the *canary* sent next."""
    small = f"a request of {canary.sent_tokens} tokens after it"
    well = canary.ending == "complete"
    took_s = canary.ended_s - canary.started_s
    if well:
        said = f"{small} was answered in {duration(took_s)}: the server has recovered"
    elif canary.ending == "unfinished":
        said = f"{small} was not answered in {duration(took_s)}, and the server was still at work: {canary.detail}"
    else:
        words = canary.refusal.text if canary.refusal else canary.detail
        said = f"{small} was not answered ({canary.ending}: {words}): the server has not recovered"
    recovered = None if canary.ending == "unfinished" else float(well)
    metrics = {**seen.metrics, "recovered": recovered, "canary_s": took_s if well else None}
    return replace(seen, metrics=metrics, said="; ".join(filter(None, (seen.said, said))))
