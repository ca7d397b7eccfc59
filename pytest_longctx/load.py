"""Many requests at once: a closed loop of so many at a time, and what it came to."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import httpx

from pytest_longctx import telemetry
from pytest_longctx.backends import MetricNames
from pytest_longctx.client import CONNECT_S, Conversation, open_client
from pytest_longctx.exchange import Exchange, tally
from pytest_longctx.observation import Observation
from pytest_longctx.progress import Watch, unwatched
from pytest_longctx.prompts import Prompt
from pytest_longctx.server import Server
from pytest_longctx.telemetry import Reading

_SETTLE_S: Final = 5.0
"""How long the server's counters may take to catch up with a load."""


@dataclass(frozen=True, slots=True)
class Load:
    """Every request of a load, and what can only be said of all of them together."""

    exchanges: tuple[Exchange, ...]
    cached_tokens: float | None = None
    """Prompt tokens that came from a cache, by the server's counter."""
    duration_s: float | None = None
    """How long it took by the client's own word, where the exchanges do not have their places in time."""
    left_out: frozenset[str] = frozenset()
    """Measures that the client does not take, or defines otherwise."""
    measured_by: str = ""
    """The client, where it is not this package's own."""
    said: str = ""
    """Why there is nothing, where there is nothing."""


def run(
    server: Server,
    prompt: Callable[[], Prompt],
    *,
    requests: int,
    concurrency: int,
    output_tokens: int,
    watch: Watch = unwatched,
) -> Load:
    """
    Send *requests* prompts, at most *concurrency* at a time.

    Each may take as long as it would if all the others were ahead of it in the queue.
    """
    before = reading(server)
    exchanges = tuple(asyncio.run(_closed_loop(server, prompt, requests, concurrency, output_tokens, watch)))
    return Load(exchanges, cached_since(server, before, exchanges))


async def _closed_loop(
    server: Server, prompt: Callable[[], Prompt], requests: int, concurrency: int, output_tokens: int, watch: Watch
) -> list[Exchange]:
    places = asyncio.Semaphore(concurrency)

    async def one() -> Exchange:
        async with places:
            fresh = prompt()  # made when its turn comes: not all of them need to be held at once
            deadline_s = server.deployment.timeouts.request_s(len(fresh) * concurrency, output_tokens)
            return await Conversation(server, fresh, output_tokens, deadline_s, watch, alone=False).hold()

    return await asyncio.gather(*(one() for _ in range(requests)))


def reading(server: Server) -> Reading:
    """One look at the server's counters; an empty reading where it has none or does not answer."""
    if server.backend.metrics == MetricNames():
        return Reading()
    try:
        with open_client(server, CONNECT_S) as http:
            answer = http.get(telemetry.PATH)
        return telemetry.read(answer.text, server.backend.metrics) if answer.status_code == 200 else Reading()
    except (httpx.HTTPError, ValueError):  # no answer, or a page that is no metrics page
        return Reading()


def cached_since(server: Server, before: Reading, exchanges: Sequence[Exchange]) -> float | None:
    """
    Prompt tokens of a load that came from a cache; None where the server does not tell.

    By its counter, once that has caught up with the answers: what anybody else asked meanwhile is counted in.
    """
    named = [each.usage.cached_tokens if each.usage else None for each in exchanges]
    if all(tokens is not None for tokens in named):
        return sum(tokens for tokens in named if tokens is not None)
    if before.cached_tokens is None or before.generated_tokens is None:
        return None
    # What was asked, not what usage claims: a server that overstates its answers would be waited for in vain.
    least = sum(min(each.asked_tokens, each.usage.completion_tokens or 0) for each in exchanges if each.usage)
    end = time.monotonic() + _SETTLE_S
    while True:
        after = reading(server)
        if after.cached_tokens is not None and (after.generated_tokens or 0) - before.generated_tokens >= least:
            return after.cached_tokens - before.cached_tokens
        if time.monotonic() > end:
            return None
        time.sleep(0.05)


def observe(load: Load) -> Observation:
    """A load as evidence: the first request that was not served, else its rates and percentiles."""
    exchanges = load.exchanges
    if not exchanges:
        return Observation(None, said=load.said, measured_by=load.measured_by)
    seen = replace(tally(exchanges), measured_by=load.measured_by)
    if seen.outcome != "serves":
        return seen
    lasted_s = max(each.ended_s for each in exchanges) - min(each.started_s for each in exchanges)
    duration_s = lasted_s if load.duration_s is None else load.duration_s
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
        "cached_share": None if load.cached_tokens is None or not prompt else load.cached_tokens / prompt,
    }
    return replace(seen, metrics={name: None if name in load.left_out else value for name, value in metrics.items()})


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
