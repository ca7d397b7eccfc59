"""The lookout: the server's gauges, watched while a first token is awaited, and its counters, read before and after."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from pytest_longctx import telemetry
from pytest_longctx.admission import Admission
from pytest_longctx.backends import MetricNames
from pytest_longctx.exchange import Ending, Ledger
from pytest_longctx.progress import Progress, Watch
from pytest_longctx.server import Server

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
class Gauges:
    """A server's metrics; of many requests that look at about the same time, one asks."""

    side: httpx.AsyncClient
    names: MetricNames
    health_path: str | None = None
    """Where to ask whether its engine lives; None: its health does not tell."""
    clock: Callable[[], float] = time.monotonic
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_s: float = -math.inf
    last: telemetry.Reading = field(default_factory=telemetry.Reading)
    dead: bool = False
    """Whether its health, when it was last asked, said that its engine is dead."""

    async def now(self) -> telemetry.Reading:
        """As they are."""
        return await telemetry.scrape(self.side, self.names)

    async def lately(self) -> telemetry.Reading:
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
async def watching(server: Server) -> AsyncIterator[Gauges]:
    """The gauges of *server*, with a client of their own."""
    async with open_http(server, CONNECT_S) as side:
        yield Gauges(side, server.backend.metrics, server.backend.health if server.backend.dies_unhealthy else None)


@dataclass(slots=True)
class Lookout:
    """Watches one request's server from beside it."""

    server: Server
    gauges: Gauges
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    before: telemetry.Reading = field(default_factory=telemetry.Reading)
    admission: Admission = field(init=False)
    health: int | None = None
    """The last HTTP status of its health; None: nobody answered, or it was not asked."""

    def __post_init__(self) -> None:
        self.admission = Admission(self.server.deployment.timeouts.admission_s)

    async def note_counters(self) -> None:
        """Read the counters before the first byte is sent."""
        self.before = await self.gauges.now()

    async def watch(self, what: str, phase: Phase, deadline_s: float, tell: Watch) -> tuple[Ending, str]:
        """Look at the gauges while a request lasts; return, and say why, only once there is no use in waiting on."""
        started_s = self.gauges.clock()
        while True:
            await self.sleep(min(_LOOK_S, self.admission.limit_s / 4))
            if phase() == "answering":
                await self.sleep(_LOOK_S)
                continue
            now = await self.gauges.lately()
            read_tokens = now.worked_since(self.before)
            at = "prefill" if phase() == "waiting" and (now.running != 0 or read_tokens) else phase()
            elapsed_s = self.gauges.clock() - started_s
            tell(Progress(what, at, elapsed_s, deadline_s, now.kv_usage, now.running, read_tokens))
            if forgotten := self.admission.look(self.gauges.clock(), now):
                return "not admitted", forgotten
            if self.gauges.dead:
                return "engine dead", "the server takes connections, and its engine is dead"

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
