"""
Faults of requests, one class each: slow, stalled or rejecting servers, wrong routes, and changed predictions.

Slow and stalled servers differ only in the gauges that change.
"""

import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

from pytest_longctx.miniatures.scoring import Predictor
from pytest_longctx.miniatures.server import Honest, Instead, Request, spared

STEPS = 10
"""Number of chunks in which a prompt is read."""
_COMPANY = 5
"""Number of concurrent requests from which an answer changes."""
_CHANGED_FROM = 3
"""First token of an answer that changes."""


class Crawls(Honest):
    """The server sends a chunk of the answer every `crawl_s` seconds."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for event in super().events(request):
            time.sleep(0.0 if spared(request) else self.crawl_s)
            yield event


class CrawlsInPrefill(Honest):
    """
    The server reads a prompt in ten chunks, one every `crawl_s` seconds. Meanwhile, only its KV cache usage changes, as
    in vLLM.
    """

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
    """The server reads half of a prompt in chunks and then stalls. Its gauges are served but do not change."""

    stops_after = _COMPANY


class StallsHalfway(Honest):
    """The server sends half of the answer and then nothing more."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for i, event in enumerate(super().events(request)):
            if i >= (request.max_tokens + 1) // 2 and not spared(request):
                Event().wait()
            yield event


class ScoredAnswers(Honest):
    """A correct server that also returns the log-probability of each token of an answer."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        names = self.tokens(request)
        for at, event in enumerate(super().events(request)):
            if event["choices"]:
                name, logprob = names[at]
                top = {name: logprob, "token_id:0": -9.0}
                told = {"tokens": [name], "token_logprobs": [logprob], "top_logprobs": [top]}
                event["choices"][0]["logprobs"] = told
            yield event

    def tokens(self, request: Request) -> list[tuple[str, float]]:
        """Return name and log-probability of each token of the answer."""
        return [(f"token_id:{7 + at}", -0.5) for at in range(request.max_tokens)]


class DependsOnCompany(ScoredAnswers):
    """
    The server answers with other tokens from the fourth on if it answers other requests at the same time, as some
    kernels do.
    """

    waits_s = 0.5

    def tokens(self, request: Request) -> list[tuple[str, float]]:
        end_s = time.monotonic() + (0.0 if spared(request) else self.waits_s)
        while self.running < _COMPANY and time.monotonic() < end_s:
            time.sleep(0.01)
        if self.running < _COMPANY:
            return super().tokens(request)
        time.sleep(self.waits_s)  # so that those who come a little later have company, too
        other = [100 if at >= _CHANGED_FROM else 0 for at in range(request.max_tokens)]
        return [(f"token_id:{7 + at + more}", -0.75) for at, more in enumerate(other)]


class CoarseCache(Honest):
    """The server's predictions are slightly wrong, as with a KV cache of few mantissa bits."""

    predictor = Predictor(error=0.1)


class GarbledCache(Honest):
    """The server predicts wrong tokens, as if its KV cache were read in another format than written."""

    predictor = Predictor(seed=1)


_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in to go on.</body></html>"
_TRACEBACK = """Traceback (most recent call last):
  File "miniature/serving_completions.py", line 506, in _build_completion_response
    text = ret_item["text"]
KeyError: 'text'"""


class WantsKey(Honest):
    """The server answers 401 to every request, whatever the key."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(401, b'{"error": "Unauthorized"}')


class Forbids(Honest):
    """The server answers 403 to every request."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(403, b'{"error": "Forbidden"}')


class Answers500(Honest):
    """The server boots, and answers every completion with an HTTP 500 error. The exception is in its log."""

    def instead(self, method: str, path: str) -> Instead | None:
        if method != "POST":
            return None
        print(f"ERROR: Exception in ASGI application\n{_TRACEBACK}", flush=True)
        return Instead(500, b'{"error": {"message": "\'text\'", "type": "InternalServerError", "code": 500}}')


class HasNoCompletions(Honest):
    """The server has every endpoint except completions."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(404, b'{"detail": "Not Found"}') if path.startswith("/v1/completions") else None


class IsAWebPage(Honest):
    """The server answers every request with a web page."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(200, _PAGE, "text/html; charset=utf-8")


class LosesItsRoute(Honest):
    """The server looks ready, but its endpoint disappears at the first long prompt, as behind a reconfigured gateway."""

    def instead_of(self, request: Request) -> Instead | None:
        return None if spared(request) else Instead(404, b'{"detail": "Not Found"}')
