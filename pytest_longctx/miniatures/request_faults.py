"""Servers that are slow and servers that stand still, one class each: only what moves tells one from the other."""

import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

from pytest_longctx.miniatures.request import Request, spared
from pytest_longctx.miniatures.server import Honest

STEPS = 10
"""Chunks in which a prompt is read."""


class Crawls(Honest):
    """Sends a chunk every `crawl_s`."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for event in super().events(request):
            time.sleep(0.0 if spared(request) else self.crawl_s)
            yield event


class CrawlsInPrefill(Honest):
    """Reads a prompt in ten chunks, one every `crawl_s`; only the use of its KV cache moves meanwhile, as in vLLM."""

    steps_read = 0
    stops_after = STEPS + 1

    def kv_usage(self) -> float:
        return self.steps_read % 1000 / 1000

    def read(self, request: Request, gone: Callable[[], bool]) -> None:
        for step in range(0 if spared(request) else STEPS):
            end_s = time.monotonic() + self.crawl_s
            while time.monotonic() < end_s or step >= self.stops_after:
                if gone():
                    raise ConnectionAbortedError
                time.sleep(0.01)
            with self.lock:
                self.steps_read += 1
        super().read(request, gone)


class StallsInPrefill(CrawlsInPrefill):
    """Reads half of a prompt so, and then stands still: its gauges are answered, and frozen."""

    stops_after = STEPS // 2


class StallsHalfway(Honest):
    """Sends half of the answer and then nothing, for ever."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for i, event in enumerate(super().events(request)):
            if i >= (request.max_tokens + 1) // 2 and not spared(request):
                Event().wait()
            yield event
