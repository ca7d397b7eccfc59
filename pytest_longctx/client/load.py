"""Send many requests at a fixed concurrency or arrival rate, and compute the metrics of the load."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, repeat
from statistics import fmean
from typing import Final

import httpx
import numpy as np

from pytest_longctx.backends import MetricNames
from pytest_longctx.client import event_loop, server_metrics
from pytest_longctx.client.exchange import Exchange, Ledger, tally
from pytest_longctx.client.request import StreamedRequest, open_client
from pytest_longctx.client.server import Server
from pytest_longctx.client.server_metrics import ServerMetrics
from pytest_longctx.client.watchdog import CONNECT_S, MetricsPoller, poll_metrics
from pytest_longctx.errors import PromptError
from pytest_longctx.findings.ask import Arrivals, Ask, missing
from pytest_longctx.observation import Observation
from pytest_longctx.processes.progress import ProgressCallback, no_progress, wait_until
from pytest_longctx.prompts import Sendable


def offsets(requests: int, rate_per_s: float, arrivals: Arrivals, seed: int) -> tuple[float, ...]:
    """
    Return the arrival time of each request in seconds after the first. The same *seed* gives the same times.

    >>> offsets(4, 2.0, "constant", 0)
    (0.0, 0.5, 1.0, 1.5)
    """
    draw = random.Random(seed)
    gaps = repeat(1 / rate_per_s) if arrivals == "constant" else iter(lambda: draw.expovariate(rate_per_s), None)
    return tuple(at for at, _ in zip(accumulate(gaps, initial=0.0), range(requests), strict=False))


_SETTLE_S: Final = 5.0
"""How long the server's counters may take to include all requests of a load."""


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load of many requests: every `Exchange`, and the figures of the load as a whole."""

    exchanges: tuple[Exchange, ...]
    ledger: Ledger | None = None
    """Increase of the server's counters over the load, including requests of other clients; None without counters."""
    duration_s: float | None = None
    """Duration that the client reports, if the exchanges have no absolute times."""
    left_out: frozenset[str] = frozenset()
    """Metrics that the client does not measure or defines differently."""
    measured_by: str = ""
    """Name of the client that sent the load; empty for this package's own."""
    said: str = ""
    """The reason why the load has no exchanges; empty if it has any."""
    vitals: Mapping[str, float] = field(default_factory=dict)
    """Device and host readings during the load, by their names in `pytest_longctx.measures`."""
    send_delay_s: float | None = None
    """
    Longest delay in seconds between the due time and the sending of a request in an open loop, which counts as waiting
    time.
    """
    offered_share: float | None = None
    """In an open loop, the rate of sending over the requested rate; None for one request."""


def run(
    server: Server, prompt: Callable[[int], Sendable], asked: Ask, seed: int = 0, watch: ProgressCallback = no_progress
) -> Load:
    """
    Send the requests of a load and return the result. Either ``concurrency`` limits the requests in flight, or
    ``rate_per_s`` sets their arrivals.

    The deadline of each request includes time for all requests ahead of it in the queue. In an open loop, times count
    from the moment a request was due, so a late send (busy client or server) counts as waiting. Raises `PromptError`.
    """
    if lack := missing("load", asked, claimed=False, bounded=True):
        raise PromptError(lack)
    flock = _Flock(server, prompt, asked, watch)
    before = reading(server)
    if asked.rate_per_s is None:
        exchanges = tuple(event_loop.run(flock.closed(asked.concurrency or 1)))
        return Load(exchanges, ledger_since(server, before, exchanges))
    due_s = offsets(flock.requests, asked.rate_per_s, asked.arrivals, seed)
    sent = event_loop.run(flock.opened(due_s))
    exchanges, delays_s = (tuple(column) for column in zip(*sent, strict=True))
    ledger = ledger_since(server, before, exchanges)
    offered = offered_share(due_s, delays_s)
    return Load(exchanges, ledger, send_delay_s=max(delays_s), offered_share=offered)


def offered_share(due_s: Sequence[float], delays_s: Sequence[float]) -> float | None:
    """
    Return the share of the requested rate at which requests were really sent; None if all were due at once.

    >>> offered_share((0.0, 0.5, 1.0), (0.0, 0.4, 1.0))
    0.5
    """
    if due_s[-1] <= 0:
        return None
    last_s = max(at_s + delay_s for at_s, delay_s in zip(due_s, delays_s, strict=True))
    return due_s[-1] / max(due_s[-1], last_s)


@dataclass(frozen=True, slots=True)
class _Flock:
    """Sender of the requests of one load."""

    server: Server
    prompt: Callable[[int], Sendable]
    asked: Ask
    watch: ProgressCallback

    @property
    def requests(self) -> int:
        return self.asked.requests or 1

    def fresh(self) -> Sendable:
        return self.prompt(self.asked.prompt_tokens or 1)

    async def send(self, fresh: Sendable, ahead: int, gauges: MetricsPoller) -> Exchange:
        """
        Send one request and return its exchange. The deadline includes time for *ahead* requests of this size in the
        queue.
        """
        deadline_s = self.server.deployment.timeouts.request_s(len(fresh) * ahead, self.asked.output_tokens)
        talk = StreamedRequest(self.server, fresh, self.asked.output_tokens, deadline_s, self.watch, gauges=gauges)
        return await talk.run()

    async def closed(self, concurrency: int) -> list[Exchange]:
        """Send all requests, at most *concurrency* at a time, and return their exchanges."""
        places = asyncio.Semaphore(concurrency)

        async def one(gauges: MetricsPoller) -> Exchange:
            async with places:
                # Make each prompt when it is needed, so that not all are in memory at once.
                return await self.send(self.fresh(), concurrency, gauges)

        async with poll_metrics(self.server) as gauges:
            return await asyncio.gather(*(one(gauges) for _ in range(self.requests)))

    async def opened(self, due_s: Sequence[float]) -> list[tuple[Exchange, float]]:
        """
        Send each request when it is due, and return the exchanges, which start at the due time, with the send delays in
        seconds.
        """

        async def one(fresh: Sendable, due_s: float, gauges: MetricsPoller) -> tuple[Exchange, float]:
            exchange = await self.send(fresh, self.requests, gauges)
            return replace(exchange, started_s=due_s), exchange.started_s - due_s

        sending = []
        fresh = self.fresh()
        async with poll_metrics(self.server) as gauges:
            began_s = time.monotonic()
            for left, offset_s in zip(reversed(range(len(due_s))), due_s, strict=True):
                await asyncio.sleep(began_s + offset_s - time.monotonic())
                sending.append(asyncio.create_task(one(fresh, began_s + offset_s, gauges)))
                # Make the next prompt before it is due, beside the requests in flight: a long prompt takes time.
                fresh = await asyncio.to_thread(self.fresh) if left else fresh
            return await asyncio.gather(*sending)


def reading(server: Server) -> ServerMetrics:
    """Return the server's counters before or after a load. The reading is empty if the server has none or does not answer."""
    if server.backend.metrics == MetricNames():
        return ServerMetrics()
    try:
        with open_client(server, CONNECT_S) as http:
            answer = http.get(server_metrics.PATH)
        return (
            server_metrics.read(answer.text, server.backend.metrics) if answer.status_code == 200 else ServerMetrics()
        )
    except (httpx.HTTPError, ValueError):  # no answer, or not a metrics page
        return ServerMetrics()


def ledger_since(server: Server, before: ServerMetrics, exchanges: Sequence[Exchange]) -> Ledger | None:
    """
    Return the increase of the server's counters over a load, after they include all answers; None if the server has no
    counters.
    """
    if not server.backend.metrics.generated_tokens:
        return None
    # Wait for the requested number, not the one in usage: a server that overstates its answers never reaches that.
    least = sum(min(each.asked_tokens, each.usage.completion_tokens or 0) for each in exchanges)
    return wait_until(
        lambda: reading(server).since(before),
        _SETTLE_S,
        0.05,
        done=lambda ledger: ledger.completion_tokens is None or ledger.completion_tokens >= least,
    )


def _cached_share(load: Load, prompt_tokens: int) -> float | None:
    """
    Return the share of prompt tokens from the cache: from usage if every answer reports it, else from the server's
    counter; None if unknown.
    """
    named = [each.usage.cached_tokens for each in load.exchanges]
    known = [tokens for tokens in named if tokens is not None]
    by_counter = load.ledger.cached_tokens if load.ledger is not None else None
    if (
        load.ledger is None
        and known
        and all(each.usage.cached_tokens == each.sent_tokens - 1 for each in load.exchanges)
    ):
        return None  # as a decode role counts the KV caches that it received: what a cache had is not known
    cached = sum(known) if len(known) == len(named) else by_counter
    return None if cached is None or not prompt_tokens else cached / prompt_tokens


def _ledger_gap(load: Load) -> dict[str, float | None]:
    if load.ledger is None:
        return {}
    sent = sum(each.sent_tokens for each in load.exchanges)
    return {"ledger_gap_tokens": load.ledger.gap_tokens(sent, sum(each.asked_tokens for each in load.exchanges))}


def observe(load: Load, *, goal_ttft_s: float | None = None, goal_tpot_s: float | None = None) -> Observation:
    """
    Return the evidence of a load: the first request that was not served, or, if all were served, rates, percentiles and
    goodput.
    """
    exchanges = load.exchanges
    if not exchanges:
        return Observation(None, said=load.said, measured_by=load.measured_by)
    seen = replace(tally(exchanges), measured_by=load.measured_by)
    if seen.outcome != "serves":
        return seen
    lasted_s = max(each.ended_s for each in exchanges) - min(each.started_s for each in exchanges)
    duration_s = lasted_s if load.duration_s is None else load.duration_s
    usages = [each.usage for each in exchanges]
    completion = sum(usage.completion_tokens or 0 for usage in usages)
    prompt = sum(usage.prompt_tokens or 0 for usage in usages)
    ttft_s = [each.ttft_s for each in exchanges if each.ttft_s is not None]
    tpot_s = [each.tpot_s for each in exchanges if each.tpot_s is not None]
    gaps_s = [gap for each in exchanges for gap in each.gaps_s]
    metrics = {
        **seen.metrics,
        "load_s": duration_s,
        "requests_per_s": len(exchanges) / duration_s,
        "output_tokens_per_s": completion / duration_s,
        "total_tokens_per_s": (prompt + completion) / duration_s,
        **{f"ttft_{name}_s": value for name, value in _summary(ttft_s).items()},
        **{f"tpot_{name}_s": value for name, value in _summary(tpot_s).items()},
        **{f"itl_{name}_s": value for name, value in _summary(gaps_s).items()},
        "send_delay_max_s": load.send_delay_s,
        "offered_share": load.offered_share,
        **_goodput(exchanges, duration_s, goal_ttft_s, goal_tpot_s),
        "cached_share": _cached_share(load, prompt),
        **_ledger_gap(load),
        **load.vitals,
    }
    return replace(seen, metrics={name: value for name, value in metrics.items() if name not in load.left_out})


def _goodput(
    exchanges: Sequence[Exchange], duration_s: float, goal_ttft_s: float | None, goal_tpot_s: float | None
) -> dict[str, float | None]:
    """
    Return the share and rate of requests that met every goal: empty without a goal, None if a time that a goal needs is
    missing.
    """
    goals = [(goal_ttft_s, "ttft_s"), (goal_tpot_s, "tpot_s")]
    asked = [(goal_s, name) for goal_s, name in goals if goal_s is not None]
    if not asked:
        return {}
    seen = [[(getattr(each, name), goal_s) for goal_s, name in asked] for each in exchanges]
    if any(time_s is None for times in seen for time_s, _ in times):
        return {"good_share": None, "goodput_per_s": None}
    good = sum(all(time_s <= goal_s for time_s, goal_s in times) for times in seen)
    return {"good_share": good / len(exchanges), "goodput_per_s": good / duration_s}


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, median, 90th and 99th percentile of a load's *values*, interpolated linearly; None without values."""
    names = ("p50", "p90", "p99")
    if not values:
        return dict.fromkeys(("mean", *names))
    return {"mean": fmean(values), **dict(zip(names, np.percentile(values, (50, 90, 99)).tolist(), strict=True))}
