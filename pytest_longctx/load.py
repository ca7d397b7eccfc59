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
from pytest_longctx.client import open_client
from pytest_longctx.conversation import Conversation
from pytest_longctx.exchange import Exchange, Ledger, tally
from pytest_longctx.lookout import CONNECT_S, Gauges, watching
from pytest_longctx.observation import Observation
from pytest_longctx.progress import Watch, unwatched
from pytest_longctx.prompts import Sendable
from pytest_longctx.server import Server
from pytest_longctx.telemetry import Reading

_SETTLE_S: Final = 5.0
"""How long the server's counters may take to catch up with a load."""


@dataclass(frozen=True, slots=True)
class Load:
    """Every request of a load, and what can only be said of all of them together."""

    exchanges: tuple[Exchange, ...]
    ledger: Ledger | None = None
    """What the server's counters gained over all of it; what anybody else asked meanwhile is counted in."""
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
    prompt: Callable[[], Sendable],
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
    return Load(exchanges, ledger_since(server, before, exchanges))


async def _closed_loop(
    server: Server, prompt: Callable[[], Sendable], requests: int, concurrency: int, output_tokens: int, watch: Watch
) -> list[Exchange]:
    places = asyncio.Semaphore(concurrency)

    async def one(gauges: Gauges) -> Exchange:
        async with places:
            fresh = prompt()  # made when its turn comes: not all of them need to be held at once
            deadline_s = server.deployment.timeouts.request_s(len(fresh) * concurrency, output_tokens)
            return await Conversation(server, fresh, output_tokens, deadline_s, watch, gauges=gauges).hold()

    async with watching(server) as gauges:
        return await asyncio.gather(*(one(gauges) for _ in range(requests)))


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


def ledger_since(server: Server, before: Reading, exchanges: Sequence[Exchange]) -> Ledger | None:
    """What the server counted over a load, once its counters have caught up with the answers; None where it has none."""
    if not server.backend.metrics.generated_tokens:
        return None
    # What was asked, not what usage claims: a server that overstates its answers would be waited for in vain.
    least = sum(min(each.asked_tokens, each.usage.completion_tokens or 0) for each in exchanges if each.usage)
    end = time.monotonic() + _SETTLE_S
    while True:
        ledger = reading(server).since(before)
        if ledger.completion_tokens is None or ledger.completion_tokens >= least or time.monotonic() > end:
            return ledger
        time.sleep(0.05)


def _cached_share(load: Load, prompt_tokens: int) -> float | None:
    """By usage where every answer names its cached tokens, else by the server's counter."""
    named = [each.usage.cached_tokens if each.usage else None for each in load.exchanges]
    known = [tokens for tokens in named if tokens is not None]
    by_counter = load.ledger.cached_tokens if load.ledger is not None else None
    cached = sum(known) if len(known) == len(named) else by_counter
    return None if cached is None or not prompt_tokens else cached / prompt_tokens


def _ledger_gap(load: Load) -> dict[str, float | None]:
    if load.ledger is None:
        return {}
    sent = sum(each.sent_tokens for each in load.exchanges)
    return {"ledger_gap_tokens": load.ledger.gap_tokens(sent, sum(each.asked_tokens for each in load.exchanges))}


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
        "cached_share": _cached_share(load, prompt),
        **_ledger_gap(load),
    }
    return replace(seen, metrics={name: value for name, value in metrics.items() if name not in load.left_out})


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
