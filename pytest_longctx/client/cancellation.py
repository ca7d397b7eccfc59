"""Disconnect during the prefill of a long prompt, and observe the server afterwards."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from pytest_longctx.client import event_loop
from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.request import StreamedRequest
from pytest_longctx.client.server import Server
from pytest_longctx.client.server_metrics import ServerMetrics
from pytest_longctx.client.watchdog import MetricsPoller, poll_metrics
from pytest_longctx.observation import Observation
from pytest_longctx.processes.progress import ProgressCallback, no_progress
from pytest_longctx.prompts import Sendable

TRIES: Final = 3
"""Number of prompts that may be answered before the client has disconnected."""
CANARY_TOKENS: Final = 12
"""A prompt short enough for one minimal step of the engine."""
PATIENCE_S: Final = 30.0
"""Seconds for which a server is observed after the disconnect. Work that ends later is recorded with this value."""
_CANARIES: Final = 3
_LOOK_S: Final = 0.01
_SETTLE_S: Final = 2.0
"""How long the gauges may still show a canary that has been answered. Requests of other clients may stay longer."""
_QUIET_S: Final = 2.0
"""Seconds without a counted token after which a server that counts tokens per chunk has stopped."""
_BLIND_S: Final = 0.5
"""Seconds from the last byte of the prompt to the disconnect, if no gauge shows the prefill."""


@dataclass(slots=True)
class _Cancellation:
    """The requests of one client that disconnects, and the observations of the server."""

    server: Server
    gauges: MetricsPoller
    prompt: Callable[[int], Sendable]
    watch: ProgressCallback
    idle: ServerMetrics = field(default_factory=ServerMetrics)
    """The gauges before the first request of this client."""
    before: ServerMetrics = field(default_factory=ServerMetrics)
    left_s: float = 0.0
    """Time of the disconnect."""

    def talk(self, tokens: int) -> StreamedRequest:
        """Return a new request for one token: a canary, or a long prompt from which the client disconnects."""
        deadline_s = self.server.deployment.timeouts.request_s(tokens, 1)
        return StreamedRequest(self.server, self.prompt(tokens), 1, deadline_s, self.watch, gauges=self.gauges)

    async def leave(self, tokens: int) -> Exchange | float:
        """
        Disconnect during the prefill of a prompt, and return the seconds until the disconnect. If the request ends
        first, return its exchange.
        """
        self.before = await self._settled()
        talk = self.talk(tokens)
        asking = asyncio.create_task(talk.run())
        try:
            while not asking.done():
                if talk.uploaded_s is not None and not talk.arrivals_s and await self._is_read(talk.uploaded_s):
                    self.left_s = time.monotonic()
                    return self.left_s - talk.started_s
                await asyncio.sleep(_LOOK_S)
            return asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _settled(self) -> ServerMetrics:
        """Return the gauges after the server has stopped counting this client's answered canaries as running."""
        since_s = time.monotonic()
        while _busy(now := await self.gauges.now()) > _busy(self.idle):
            if time.monotonic() - since_s > _SETTLE_S:
                break
            await asyncio.sleep(_LOOK_S)
        return now

    async def _is_read(self, uploaded_s: float) -> bool:
        now = await self.gauges.now()
        # SGLang counts a prompt in chunked prefill neither as running nor as waiting, but counts the tokens of every chunk.
        if (worked := now.worked_since(self.before)) is not None:
            return worked > 0
        if now.running is not None:
            return now.running > (self.before.running or 0)
        return time.monotonic() - uploaded_s > _BLIND_S

    async def aftermath(self) -> tuple[float | None, ServerMetrics]:
        """
        Observe the server after the disconnect, and return the seconds until its work ended, and the counters.

        The seconds are None if the server does not report its work.
        """
        worked: float | None = None
        moved_s = 0.0
        while True:
            now, since_s = await self.gauges.now(), time.monotonic() - self.left_s
            if now.running is None:
                return None, now
            # Wait for the canary's token too, or its prompt would be counted as part of the cancelled one.
            counted = now.since(self.before).completion_tokens != 0
            busy = _busy(now) > _busy(self.before) or not counted
            if busy or now.worked_tokens is None or now.worked_tokens != worked:
                worked, moved_s = now.worked_tokens, since_s
            if not busy and (worked is None or since_s - moved_s > _QUIET_S):
                return moved_s, now
            if since_s > PATIENCE_S:
                return since_s, now
            await asyncio.sleep(_LOOK_S)


def disconnect(
    server: Server, prompt: Callable[[int], Sendable], tokens: int, watch: ProgressCallback = no_progress
) -> Observation:
    """
    Send a prompt of *tokens*, disconnect during its prefill, send a canary, and return the observation of both.

    The outcome is None if every prompt was answered before the disconnect. Use a longer prompt then.
    """
    return event_loop.run(_disconnect(server, prompt, tokens, watch))


async def _disconnect(
    server: Server, prompt: Callable[[int], Sendable], tokens: int, watch: ProgressCallback
) -> Observation:
    async with poll_metrics(server) as gauges:
        visit = _Cancellation(server, gauges, prompt, watch)
        visit.idle = await gauges.now()
        usual = [await visit.talk(CANARY_TOKENS).run() for _ in range(_CANARIES)]
        if (unserved := _unserved(usual)) is not None:
            return unserved
        for _ in range(TRIES):
            left = await visit.leave(tokens)
            if isinstance(left, float):
                return await _afterwards(visit, left, usual)
            if left.ending != "complete":
                return left.observe()
    return Observation(
        None, said=f"{TRIES} prompts of {tokens:,} tokens were answered before the client could disconnect"
    )


async def _afterwards(visit: _Cancellation, lasted_s: float, usual: list[Exchange]) -> Observation:
    canary = await visit.talk(CANARY_TOKENS).run()
    if (unserved := _unserved([canary])) is not None:
        return replace(unserved, said=f"{CANARY_TOKENS} tokens after a disconnect: {unserved.said}")
    stopped_s, after = await visit.aftermath()
    worked = after.worked_since(visit.before)
    counted = after.since(visit.before).prompt_tokens if worked is None else worked
    seen = [each.ttft_s for each in usual if each.ttft_s is not None]
    usual_s = median(seen) if seen else None
    metrics = {
        "abandoned_s": lasted_s,
        "abandoned_tokens": None if counted is None else counted - canary.sent_tokens,
        "stopped_s": stopped_s,
        "canary_usual_s": usual_s,
        "canary_delay_s": None if canary.ttft_s is None or usual_s is None else canary.ttft_s - usual_s,
    }
    return Observation("serves", metrics, phase="request")


def _busy(now: ServerMetrics) -> float:
    """
    Return the number of running and waiting requests. Requests from before the disconnect belong to other clients or to
    another fault.
    """
    return (now.running or 0) + (now.waiting or 0)


def _unserved(exchanges: list[Exchange]) -> Observation | None:
    return next((each.observe() for each in exchanges if each.ending != "complete"), None)
