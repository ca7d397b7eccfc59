"""
Poll a server's metrics during a request, and detect requests that are never scheduled or have stalled.

The admission rule has no clock of its own, so a test can replay hours of metrics. During a long prefill no counter may
change before the first token, for most of an hour at ten million tokens, but the server reports the request as running.
A request is not admitted if it waits while none runs and no other metric changes.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from pytest_longctx.backends import MetricNames
from pytest_longctx.client import server_metrics
from pytest_longctx.client.exchange import Ending, Ledger
from pytest_longctx.client.http_client import AsyncPageClient
from pytest_longctx.client.server import Server
from pytest_longctx.client.server_metrics import REQUEST_REMEDY, Pace, ServerMetrics, Stall, can_move, moved
from pytest_longctx.deployments import models
from pytest_longctx.diagnosis.log_activity import LogMotion
from pytest_longctx.errors import ModelError
from pytest_longctx.processes.progress import Progress, ProgressCallback
from pytest_longctx.units import duration

_HELD: Final = 6
"""
Factor on the admission limit while a part of the KV cache is in use.

SGLang counts a request in chunked prefill neither as running nor as waiting. If it reports the cached tokens, they
change with every chunk. The cache usage is rounded to hundredths, and one hundredth of a pool of millions of tokens is
many chunks.
"""


@dataclass(slots=True)
class Admission:
    """Rule that follows successive scrapes, and reports requests that have waited unscheduled for longer than *limit_s*."""

    limit_s: float
    waited_s: float | None = None
    """Longest unscheduled wait so far in seconds; None if no request waited."""
    _since_s: float = 0.0
    _still: ServerMetrics | None = None
    """The scrape since which nothing has changed; None if a request runs or none waits."""

    def look(self, now_s: float, seen: ServerMetrics) -> str | None:
        """Return the reason if a request waits too long for admission; None if not. A missing metrics page proves nothing."""
        if not seen.answered:
            return None
        if not seen.unscheduled:
            self._still = None
            return None
        still = replace(seen, waiting=None)  # requests of other clients may come and go: that is no progress
        if still != self._still:
            self._still, self._since_s = still, now_s
        stretch_s = now_s - self._since_s
        self.waited_s = max(stretch_s, self.waited_s or 0.0)
        if stretch_s <= self.limit_s * (_HELD if seen.kv_usage else 1):
            return None
        usage = f" with {seen.kv_usage:.1%} of the KV cache in use" if seen.kv_usage is not None else ""
        return f"for {duration(stretch_s)} requests waited and none ran{usage}, and no counter moved"


CONNECT_S: Final = 10.0
_LOOK_S: Final = 1.0
"""Interval between scrapes before the first token."""
_PULSE_S: Final = 5.0
"""Timeout in seconds of a health check, which needs no work of the engine."""
_SETTLE_S: Final = 2.0
"""Seconds that the server's counters may take to include an answer."""

Phase = Callable[[], str]
"""State of a request as its client knows it: ``uploading``, ``waiting`` for the first token, or ``answering``."""


def open_http(server: Server, timeout_s: float | None) -> httpx.AsyncClient:
    """
    Return a client for *server* with the given read and write timeouts (None: no timeout). The client uses no proxies
    on loopback.
    """
    return AsyncPageClient(
        base_url=server.url,
        headers=dict(server.headers),
        timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
        trust_env=not server.local,
        verify=server.secure,
    )


@dataclass(slots=True)
class MetricsPoller:
    """Poller of a server's metrics. Concurrent requests share one scrape."""

    side: httpx.AsyncClient
    names: MetricNames
    health_path: str | None = None
    """Endpoint that reports whether the engine is alive; None: the health endpoint does not report that."""
    clock: Callable[[], float] = time.monotonic
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_s: float = -math.inf
    last: server_metrics.ServerMetrics = field(default_factory=server_metrics.ServerMetrics)
    dead: bool = False
    """Whether the last health check reported a dead engine."""

    async def now(self) -> server_metrics.ServerMetrics:
        """Scrape the server's metrics now, and return them."""
        return await server_metrics.scrape(self.side, self.names)

    async def lately(self) -> server_metrics.ServerMetrics:
        """Return the server's metrics, at most half a polling interval old. If the last scrape is older, scrape again."""
        async with self.asking:
            if self.clock() - self.read_s > _LOOK_S / 2:
                self.last, self.dead = await self.now(), await self.health(self.health_path) == 503
                self.read_s = self.clock()
        return self.last

    async def health(self, path: str | None) -> int | None:
        """
        Return the HTTP status of a health check; None if the check fails. A healthy status does not prove that the
        engine works.
        """
        try:
            return (await self.side.get(path, timeout=_PULSE_S)).status_code if path else None
        except httpx.HTTPError:
            return None


@asynccontextmanager
async def poll_metrics(server: Server) -> AsyncIterator[MetricsPoller]:
    """Open a poller of the server's metrics, with an HTTP client of its own."""
    async with open_http(server, CONNECT_S) as side:
        yield MetricsPoller(
            side, server.backend.metrics, server.backend.health if server.backend.dies_unhealthy else None
        )


def _keeps_all(server: Server) -> bool:
    """Return whether at least one layer keeps every token of a prompt, so that each chunk increases the cache usage."""
    try:
        shape = models.shape_of(server.deployment.model)
    except ModelError:
        return False
    return shape is not None and shape.full > 0


@dataclass(slots=True)
class Watchdog:
    """Watchdog of one request: polls the server, and ends the request when more waiting is useless."""

    server: Server
    gauges: MetricsPoller
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    prompt_tokens: int = 0
    before: server_metrics.ServerMetrics = field(default_factory=server_metrics.ServerMetrics)
    admission: Admission = field(init=False)
    stall: Stall = field(init=False)
    health: int | None = None
    """HTTP status of the last health check; None if it failed, or if no check was made."""
    kv_usage_peak: float | None = None
    """Highest share of the KV cache in use over the scrapes of this request."""
    _log: LogMotion = field(init=False)
    _last: server_metrics.ServerMetrics | None = None
    """The scrape with which the next one is compared; None without a current one."""

    def __post_init__(self) -> None:
        timeouts, catalogue = self.server.deployment.timeouts, self.server.backend.catalogue
        self.admission = Admission(timeouts.admission_s)
        self.stall = Stall(timeouts.stall_s, self.gauges.clock(), timeouts.one_step_s(self.prompt_tokens))
        self.stall.every_step_moves = _keeps_all(self.server)
        if self.server.backend.on_cpu and not self.server.attached:
            # Its CPU was measured before the run, and other programs may use it since.
            self.stall.slowed = server_metrics.host_load
        idle = tuple(each.regex for each in catalogue.benign if each.kind)
        if catalogue.rate is not None and self.server.backend.metrics.kv_usage:
            idle += (catalogue.rate.regex,)  # logged at every interval with the gauges' values, with or without work
        self._log = LogMotion.from_now(self.server.log, idle)

    async def note_counters(self) -> None:
        """Store the server's counters before the first byte is sent."""
        self.before = await self.gauges.now()
        self._last = self.before if self.before.answered else None

    def begin(self) -> None:
        """Start the stall timer, because the first byte will now be sent."""
        self.stall.moved_s = self.stall.started_s = self.gauges.clock()

    def took(self) -> None:
        """Record that the server accepted a part of the prompt."""
        self.stall.move(self.gauges.clock(), "the upload", step=False)

    def came(self) -> None:
        """Record that a chunk of the answer arrived."""
        self.stall.move(self.gauges.clock(), "the answer")
        self._last = None  # the next page includes its tokens, which are no new progress

    @property
    def sees(self) -> bool:
        """Whether a metric or the log can show progress besides the answer."""
        return can_move(self._last or self.before) or bool(self._log.last)

    async def watch(self, what: str, phase: Phase, deadline_s: float, tell: ProgressCallback) -> tuple[Ending, str]:
        """Poll the server during a request. Return an ending and its reason as soon as more waiting is useless."""
        limit_s = min(self.admission.limit_s, self.stall.stall_s)
        while True:
            await self.sleep(min(_LOOK_S, limit_s / 4))
            answering = phase() == "answering"
            # Do not poll a server that is answering until it falls silent.
            if answering and self.gauges.clock() - self.stall.moved_s < self.stall.stall_s / 2:
                continue
            now = await self.gauges.lately()
            self._compare(now)
            if not answering:
                self._tell(what, phase(), deadline_s, now, tell)
                if forgotten := self.admission.look(self.gauges.clock(), now):
                    return "not admitted", forgotten
            if self.gauges.dead:
                return "engine dead", "the server accepts connections, but its engine is dead"
            # A request that waits to be scheduled is judged by the admission rule, which allows more time while the cache is in
            # use.
            counts = answering or phase() == "uploading" or (self.sees and not now.unscheduled)
            if counts and (silence := self.stall.look(self.gauges.clock(), stepwise=answering)):
                return "stalled", silence

    def _tell(
        self, what: str, phase: str, deadline_s: float, now: server_metrics.ServerMetrics, tell: ProgressCallback
    ) -> None:
        read_tokens = now.worked_since(self.before)
        at = "prefill" if phase == "waiting" and (now.running != 0 or read_tokens) else phase
        elapsed_s = self.gauges.clock() - self.stall.started_s
        tell(Progress(what, at, elapsed_s, deadline_s, now.kv_usage, now.running, read_tokens))

    def _compare(self, now: server_metrics.ServerMetrics) -> None:
        """Record the progress since the watchdog's last scrape."""
        if now.kv_usage is not None:
            self.kv_usage_peak = max(now.kv_usage, self.kv_usage_peak or 0.0)
        if now.answered:
            self.stall.every_step_moves = self.stall.every_step_moves or now.worked_tokens is not None
            if self._last is not None and (what := moved(self._last, now)):
                self.stall.move(self.gauges.clock(), what.removesuffix("_s").replace("_", " "))
            self._last = now
        if self._log.grown():
            self.stall.move(self.gauges.clock(), f"the log ({self._log.last[:80]})")

    def time_is_up(self, deadline_s: float, arrivals_s: list[float], output_tokens: int) -> tuple[Ending, str]:
        """Return the ending, and its reason, of a request that is not over after *deadline_s*."""
        now_s, came = self.gauges.clock(), f"not finished within {deadline_s:.3g} s; {len(arrivals_s)} chunks received"
        if self.stall.last in (None, "the upload"):
            why = (
                "no progress was observed"
                if self.sees
                else "progress cannot be observed (no metrics, no log), so the deadline decides"
            )
            return "deadline", f"{came}; {why}"
        # A client that is held up may reach the deadline before its next look at a silence that is long enough.
        if arrivals_s and (silence := self.stall.look(now_s, stepwise=True)):
            return "stalled", silence
        silent_s, stall_s = now_s - self.stall.moved_s, self.stall.limit_s(stepwise=bool(arrivals_s))
        if silent_s > stall_s / 2:
            few = f"no progress for {duration(silent_s)} (hang limit {duration(stall_s)})"
            return "unfinished", f"{came}; {few}; {REQUEST_REMEDY}"
        answering_s = arrivals_s[-1] - arrivals_s[0] if arrivals_s else 0.0
        pace = Pace(
            now_s - self.stall.started_s,
            deadline_s,
            silent_s,
            self.prompt_tokens,
            output_tokens,
            self._read_tokens(),
            len(arrivals_s),
            answering_s,
        )
        return "unfinished", f"{pace}; {REQUEST_REMEDY}"

    def _read_tokens(self) -> float | None:
        """
        Return the number of prompt tokens computed so far, from a token count or from the usage of a pool of known
        size; None if unknown.
        """
        now, pool = self._last, self.server.figures.get("kv_cache_tokens")
        if now is None:
            return None
        for read in (now.worked_since(self.before), now.grown("kv_used_tokens", self.before)):
            if read is not None:
                return read
        share = now.grown("kv_usage", self.before)
        return None if share is None or pool is None else share * pool

    async def health_label(self) -> str:
        """Check the server's health and return the result as text."""
        path = self.server.backend.health
        self.health = await self.gauges.health(path)
        return f"{path} does not answer" if self.health is None else f"{path} returns {self.health}"

    async def ledger(self, completion_tokens: int) -> Ledger | None:
        """
        Return the increase of the counters since `note_counters`, once they include an answer of *completion_tokens*.

        None if the server has no counters.
        """
        names = self.server.backend.metrics
        if not names.generated_tokens:
            return None
        end = time.monotonic() + _SETTLE_S
        while True:
            ledger = (await self.gauges.now()).since(self.before)
            caught_up = (ledger.completion_tokens or 0) >= completion_tokens and ledger.first_tokens != 0
            if caught_up or ledger.completion_tokens is None or time.monotonic() > end:
                return replace(ledger, times_first_token=bool(self.server.backend.metrics.ttft_s))
            await asyncio.sleep(0.05)
