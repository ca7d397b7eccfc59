"""The lookout: the server's gauges, watched while a first token is awaited, and its counters, read before and after."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import httpx

from pytest_longctx import telemetry
from pytest_longctx.admission import Admission
from pytest_longctx.exchange import Ending, Ledger
from pytest_longctx.progress import Progress, Watch
from pytest_longctx.server import Server

_LOOK_S: Final = 1.0
"""How often the server's gauges are looked at while the first token is awaited."""
_PULSE_S: Final = 5.0
"""How long a health check may take: it needs no work."""
_SETTLE_S: Final = 2.0
"""How long the server's counters may take to catch up with an answer."""

Phase = Callable[[], str]
"""Where a request stands, as far as its client knows: ``uploading``, ``waiting`` for the first token, or ``answering``."""


@dataclass(slots=True)
class Lookout:
    """Watches one request's server from beside it."""

    server: Server
    side: httpx.AsyncClient
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    before: telemetry.Reading = field(default_factory=telemetry.Reading)
    admission: Admission = field(init=False)
    health: int | None = None
    """The last HTTP status of its health; None: nobody answered, or it was not asked."""

    def __post_init__(self) -> None:
        self.admission = Admission(self.server.deployment.timeouts.admission_s)

    async def note_counters(self) -> None:
        """Read the counters before the first byte is sent."""
        self.before = await telemetry.scrape(self.side, self.server.backend.metrics)

    async def watch(self, what: str, phase: Phase, deadline_s: float, tell: Watch) -> tuple[Ending, str]:
        """Look at the gauges while a request lasts; return, and say why, only once there is no use in waiting on."""
        started_s = self.clock()
        while True:
            await self.sleep(min(_LOOK_S, self.admission.limit_s / 4))
            if phase() == "answering":
                await self.sleep(_LOOK_S)
                continue
            now = await telemetry.scrape(self.side, self.server.backend.metrics)
            at = "prefill" if phase() == "waiting" and now.running != 0 else phase()
            tell(Progress(what, at, self.clock() - started_s, deadline_s, now.kv_usage))
            if forgotten := self.admission.look(self.clock(), now):
                return "not admitted", forgotten
            if self.server.backend.dies_unhealthy:
                await self.pulse()
                if self.health == 503:
                    return "engine dead", "the server takes connections, and its engine is dead"

    async def pulse(self) -> str:
        """What its health says now, in words: a server that answers this may do nothing else any more."""
        path, self.health = self.server.backend.health, None
        try:
            self.health = (await self.side.get(path, timeout=_PULSE_S)).status_code
        except httpx.HTTPError:
            return f"nobody answers {path}"
        return f"{path} says {self.health}"

    async def ledger(self, completion_tokens: int) -> Ledger | None:
        """
        What the server counted since `note_counters`, once it has caught up with an answer of *completion_tokens*.

        None where it has no counters to ask for.
        """
        if not self.server.backend.metrics.generated_tokens:
            return None
        end = time.monotonic() + _SETTLE_S
        while True:
            ledger = (await telemetry.scrape(self.side, self.server.backend.metrics)).since(self.before)
            caught_up = (ledger.completion_tokens or 0) >= completion_tokens and ledger.first_tokens != 0
            if caught_up or ledger.completion_tokens is None or time.monotonic() > end:
                return ledger
            await asyncio.sleep(0.05)
