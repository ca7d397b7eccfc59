"""
The lookout: the server's gauges, watched while a first token is awaited, and its counters, read before and after.

Is a request ever scheduled? A rule on a server's gauges, without a clock of its own, so that hours of them can be replayed.

A long prefill is as silent: no counter moves before its first token, which may take most of an hour at ten million tokens.
But it runs. Forgotten are requests that wait while none runs and nothing else on the page moves.
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
from pytest_longctx.client.server import Server
from pytest_longctx.client.server_metrics import REQUEST_REMEDY, Pace, ServerMetrics, Stall, can_move, moved
from pytest_longctx.deployments import models
from pytest_longctx.diagnosis.log_activity import LogMotion
from pytest_longctx.errors import ModelError
from pytest_longctx.progress import Progress, ProgressCallback
from pytest_longctx.units import duration

_HELD: Final = 6
"""
How many times longer it may last where somebody holds a part of the cache.

SGLang counts a request in chunked prefill neither as running nor as waiting. Its tokens in the cache move with every chunk, where
its page has them; the share of it is rounded to hundredths, and of a pool of millions of tokens one hundredth is many chunks.
"""


@dataclass(slots=True)
class Admission:
    """Looks at one reading after the other, and tells when requests have waited unscheduled for longer than *limit_s*."""

    limit_s: float
    waited_s: float | None = None
    """The longest such stretch so far; None: there was none."""
    _since_s: float = 0.0
    _still: ServerMetrics | None = None
    """What has not moved since then; None: something runs, or nobody waits."""

    def look(self, now_s: float, seen: ServerMetrics) -> str | None:
        """Why the wait is over, or None: it may go on. A page that does not come tells nothing, one way or the other."""
        if not seen.answered:
            return None
        if not seen.unscheduled:
            self._still = None
            return None
        still = replace(seen, waiting=None)  # others may come and give up meanwhile: that is no progress
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
"""How often the server's gauges are looked at while the first token is awaited."""
_PULSE_S: Final = 5.0
"""How long a health check may take: it needs no work."""
_SETTLE_S: Final = 2.0
"""How long the server's counters may take to catch up with an answer."""

Phase = Callable[[], str]
"""Where a request stands, as far as its client knows: ``uploading``, ``waiting`` for the first token, or ``answering``."""


def open_http(server: Server, timeout_s: float | None) -> httpx.AsyncClient:
    """A client for *server* that reads and writes for *timeout_s*, None for ever; proxies are not for loopback."""
    return httpx.AsyncClient(
        base_url=server.url,
        headers=dict(server.headers),
        timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
        trust_env=not server.local,
        verify=server.secure,
    )


@dataclass(slots=True)
class MetricsPoller:
    """A server's metrics; of many requests that look at about the same time, one asks."""

    side: httpx.AsyncClient
    names: MetricNames
    health_path: str | None = None
    """Where to ask whether its engine lives; None: its health does not tell."""
    clock: Callable[[], float] = time.monotonic
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_s: float = -math.inf
    last: server_metrics.ServerMetrics = field(default_factory=server_metrics.ServerMetrics)
    dead: bool = False
    """Whether its health, when it was last asked, said that its engine is dead."""

    async def now(self) -> server_metrics.ServerMetrics:
        """As they are."""
        return await server_metrics.scrape(self.side, self.names)

    async def lately(self) -> server_metrics.ServerMetrics:
        """As they were not much longer ago than it takes to look again."""
        async with self.asking:
            if self.clock() - self.read_s > _LOOK_S / 2:
                self.last, self.dead = await self.now(), await self.health(self.health_path) == 503
                self.read_s = self.clock()
        return self.last

    async def health(self, path: str | None) -> int | None:
        """What its health says; None where nobody answers. It may say that all is well, and nothing else any more."""
        try:
            return (await self.side.get(path, timeout=_PULSE_S)).status_code if path else None
        except httpx.HTTPError:
            return None


@asynccontextmanager
async def poll_metrics(server: Server) -> AsyncIterator[MetricsPoller]:
    """The gauges of *server*, with a client of their own."""
    async with open_http(server, CONNECT_S) as side:
        yield MetricsPoller(
            side, server.backend.metrics, server.backend.health if server.backend.dies_unhealthy else None
        )


def _keeps_all(server: Server) -> bool:
    """Whether its model is known to keep every token of a prompt, in some layer: then each chunk takes more of the cache."""
    try:
        shape = models.shape_of(server.deployment.model)
    except ModelError:
        return False
    return shape is not None and shape.full > 0


@dataclass(slots=True)
class Watchdog:
    """Watches one request's server from beside it."""

    server: Server
    gauges: MetricsPoller
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    prompt_tokens: int = 0
    before: server_metrics.ServerMetrics = field(default_factory=server_metrics.ServerMetrics)
    admission: Admission = field(init=False)
    stall: Stall = field(init=False)
    health: int | None = None
    """The last HTTP status of its health; None: nobody answered, or it was not asked."""
    _log: LogMotion = field(init=False)
    _last: server_metrics.ServerMetrics | None = None
    """The page that the next is compared with; None: there was none, or too much has happened since."""

    def __post_init__(self) -> None:
        timeouts, catalogue = self.server.deployment.timeouts, self.server.backend.catalogue
        self.admission = Admission(timeouts.admission_s)
        self.stall = Stall(timeouts.stall_s, self.gauges.clock(), timeouts.one_step_s(self.prompt_tokens))
        self.stall.every_step_moves = _keeps_all(self.server)
        idle = tuple(each.regex for each in catalogue.benign if each.kind)
        if catalogue.rate is not None and self.server.backend.metrics.kv_usage:
            idle += (catalogue.rate.regex,)  # it comes whether or not there is work, with what the gauges say
        self._log = LogMotion.from_now(self.server.log, idle)

    async def note_counters(self) -> None:
        """Read the counters before the first byte is sent."""
        self.before = await self.gauges.now()
        self._last = self.before if self.before.answered else None

    def begin(self) -> None:
        """The first byte is about to be sent: from here on silence counts."""
        self.stall.moved_s = self.stall.started_s = self.gauges.clock()

    def took(self) -> None:
        """The server has taken a part of the prompt."""
        self.stall.move(self.gauges.clock(), "the upload", step=False)

    def came(self) -> None:
        """A chunk of the answer has come."""
        self.stall.move(self.gauges.clock(), "the answer")
        self._last = None  # its tokens are on the next page, and are no news

    @property
    def sees(self) -> bool:
        """Whether there is anything beside the answer that would move."""
        return can_move(self._last or self.before) or bool(self._log.last)

    async def watch(self, what: str, phase: Phase, deadline_s: float, tell: ProgressCallback) -> tuple[Ending, str]:
        """Look at the gauges while a request lasts; return, and say why, only once there is no use in waiting on."""
        limit_s = min(self.admission.limit_s, self.stall.stall_s)
        while True:
            await self.sleep(min(_LOOK_S, limit_s / 4))
            answering = phase() == "answering"
            # A server that answers is left in peace until it falls silent.
            if answering and self.gauges.clock() - self.stall.moved_s < self.stall.stall_s / 2:
                continue
            now = await self.gauges.lately()
            self._compare(now)
            if not answering:
                self._tell(what, phase(), deadline_s, now, tell)
                if forgotten := self.admission.look(self.gauges.clock(), now):
                    return "not admitted", forgotten
            if self.gauges.dead:
                return "engine dead", "the server takes connections, and its engine is dead"
            # One that waits for its turn is the affair of the rule above, which has more patience where the cache is held.
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
        """Note what has moved since the last look."""
        if now.answered:
            self.stall.every_step_moves = self.stall.every_step_moves or now.worked_tokens is not None
            if self._last is not None and (what := moved(self._last, now)):
                self.stall.move(self.gauges.clock(), what.removesuffix("_s").replace("_", " "))
            self._last = now
        if self._log.grown():
            self.stall.move(self.gauges.clock(), f"the log ({self._log.last[:80]})")

    def time_is_up(self, deadline_s: float, arrivals_s: list[float], output_tokens: int) -> tuple[Ending, str]:
        """How a request ended that was not over in *deadline_s*, and what is to be said of it."""
        now_s, came = self.gauges.clock(), f"no end within {deadline_s:.3g} s; {len(arrivals_s)} chunks had come"
        if self.stall.last in (None, "the upload"):
            why = (
                "nothing had moved"
                if self.sees
                else "nothing could be watched (no metrics, no log): the deadline is the limit"
            )
            return "deadline", f"{came}; {why}"
        silent_s, stall_s = now_s - self.stall.moved_s, self.stall.limit_s(stepwise=bool(arrivals_s))
        if silent_s > stall_s / 2:
            few = (
                f"nothing had moved for {duration(silent_s)}, too short a time to call it a hang ({duration(stall_s)})"
            )
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
        """How much of the prompt has been read, as far as the server tells: in tokens, or as a share of a pool that is known."""
        now, pool = self._last, self.server.figures.get("kv_cache_tokens")
        if now is None:
            return None
        for read in (now.worked_since(self.before), now.grown("kv_used_tokens", self.before)):
            if read is not None:
                return read
        share = now.grown("kv_usage", self.before)
        return None if share is None or pool is None else share * pool

    async def pulse(self) -> str:
        """What its health says now, in words."""
        path = self.server.backend.health
        self.health = await self.gauges.health(path)
        return f"nobody answers {path}" if self.health is None else f"{path} says {self.health}"

    async def ledger(self, completion_tokens: int) -> Ledger | None:
        """
        What the server counted since `note_counters`, once it has caught up with an answer of *completion_tokens*.

        None where it has no counters to ask for.
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
