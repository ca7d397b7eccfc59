"""The lookout: the server's gauges, watched while a first token is awaited, and its counters, read before and after."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx

from pytest_longctx import telemetry
from pytest_longctx.exchange import Ledger
from pytest_longctx.progress import Progress, Watch
from pytest_longctx.server import Server

_LOOK_S: Final = 1.0
"""How often the server's gauges are looked at while the first token is awaited."""
_SETTLE_S: Final = 2.0
"""How long the server's counters may take to catch up with an answer."""

Phase = Callable[[], str]
"""Where a request stands, as far as its client knows: ``uploading``, ``waiting`` for the first token, or ``answering``."""


@dataclass(slots=True)
class Lookout:
    """Watches one request's server from beside it."""

    server: Server
    side: httpx.AsyncClient
    before: telemetry.Reading = field(default_factory=telemetry.Reading)
    waited_unscheduled_s: float | None = None

    async def note_counters(self) -> None:
        """Read the counters before the first byte is sent."""
        self.before = await telemetry.scrape(self.side, self.server.backend.metrics)

    async def watch(self, what: str, phase: Phase, deadline_s: float, tell: Watch) -> str:
        """Look at the gauges while a request lasts; return, and say why, only once it has waited unscheduled too long."""
        started_s, since = time.monotonic(), None
        limit_s = self.server.deployment.timeouts.admission_s
        while True:
            await asyncio.sleep(min(_LOOK_S, limit_s / 4))
            if phase() == "answering":
                await asyncio.sleep(_LOOK_S)
                continue
            now = await telemetry.scrape(self.side, self.server.backend.metrics)
            at = "prefill" if phase() == "waiting" and now.running != 0 else phase()
            tell(Progress(what, at, time.monotonic() - started_s, deadline_s, now.kv_usage, now.running))
            if not now.unscheduled:
                since = None
                continue
            since = since or time.monotonic()
            waited_s = time.monotonic() - since
            self.waited_unscheduled_s = max(waited_s, self.waited_unscheduled_s or 0.0)
            if waited_s > limit_s:
                return f"healthy, but for {waited_s:.0f} s requests waited, none ran and the KV cache was empty"

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
