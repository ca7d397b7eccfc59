"""Many requests at once: a closed loop of so many at a time, and what it came to."""

import asyncio
from collections.abc import Callable, Sequence
from statistics import fmean

from pytest_longctx.conversation import Conversation
from pytest_longctx.exchange import Exchange, tally
from pytest_longctx.observation import Observation
from pytest_longctx.progress import Watch, unwatched
from pytest_longctx.prompts import Sendable
from pytest_longctx.server import Server


def run(
    server: Server,
    prompt: Callable[[], Sendable],
    *,
    requests: int,
    concurrency: int,
    output_tokens: int,
    watch: Watch = unwatched,
) -> list[Exchange]:
    """
    Send *requests* prompts, at most *concurrency* at a time, and return every exchange.

    Each may take as long as it would if all the others were ahead of it in the queue.
    """
    return asyncio.run(_closed_loop(server, prompt, requests, concurrency, output_tokens, watch))


async def _closed_loop(
    server: Server, prompt: Callable[[], Sendable], requests: int, concurrency: int, output_tokens: int, watch: Watch
) -> list[Exchange]:
    places = asyncio.Semaphore(concurrency)

    async def one() -> Exchange:
        async with places:
            fresh = prompt()  # made when its turn comes: not all of them need to be held at once
            deadline_s = server.deployment.timeouts.request_s(len(fresh) * concurrency, output_tokens)
            return await Conversation(server, fresh, output_tokens, deadline_s, watch, alone=False).hold()

    return await asyncio.gather(*(one() for _ in range(requests)))


def observe(exchanges: Sequence[Exchange]) -> Observation:
    """A load as evidence: the first request that was not served, else its rates and percentiles."""
    seen = tally(exchanges)
    if seen.outcome != "serves":
        return seen
    duration_s = max(each.ended_s for each in exchanges) - min(each.started_s for each in exchanges)
    usages = [each.usage for each in exchanges if each.usage]
    completion = sum(usage.completion_tokens or 0 for usage in usages)
    prompt = sum(usage.prompt_tokens or 0 for usage in usages)
    ttft_s = sorted(each.ttft_s for each in exchanges if each.ttft_s is not None)
    tpot_s = sorted(each.tpot_s for each in exchanges if each.tpot_s is not None)
    gaps_s = sorted(gap for each in exchanges for gap in each.gaps_s)
    metrics = {
        **seen.metrics,
        "load_s": duration_s,
        "requests_per_s": len(exchanges) / duration_s,
        "output_tokens_per_s": completion / duration_s,
        "total_tokens_per_s": (prompt + completion) / duration_s,
        **{f"ttft_{name}_s": value for name, value in _summary(ttft_s).items()},
        **{f"tpot_{name}_s": value for name, value in _summary(tpot_s).items()},
        **{f"itl_{name}_s": value for name, value in _summary(gaps_s).items()},
    }
    return Observation("serves", metrics, phase="request", said=seen.said)


def _summary(ordered: Sequence[float]) -> dict[str, float | None]:
    """Mean, median and 99th percentile of *ordered*; None where there is nothing."""
    if not ordered:
        return {"mean": None, "p50": None, "p99": None}
    return {"mean": fmean(ordered), "p50": percentile(ordered, 50), "p99": percentile(ordered, 99)}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """
    A percentile of sorted values, linear between the two nearest.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50)
    2.5
    """
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
