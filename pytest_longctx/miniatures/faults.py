"""
Faults of miniatures in boots and in answers, one class each.

Prompts of `request.SMALL_TALK_TOKENS` or fewer are not affected, so each server passes the readiness check.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any

from pytest_longctx.miniatures import death_faults, request_faults
from pytest_longctx.miniatures.server import Honest, Request, say, spared


class HangsAtBoot(Honest):
    """The server never opens its port."""

    def boot(self) -> None:
        super().boot()
        time.sleep(3600)


class ExitsAtBoot(Honest):
    """The server exits with an error code and an unknown last log line."""

    def boot(self) -> None:
        say("an unrecognised last line")
        sys.exit(3)


class NeverHealthy(Honest):
    """The server opens its port, but its health never becomes green."""

    def healthy(self) -> bool:
        return False


class CrawlsAtBoot(Honest):
    """The server loads without end and logs its progress every `crawl_s` in a bar without a line end."""

    def boot(self) -> None:
        for done in count(1):
            print(f"Loading checkpoint shards: {done} of many\r", end="", flush=True)
            time.sleep(self.crawl_s)


class Overcommits(Honest):
    """The server boots with a KV cache smaller than one request of the listed length, as vLLM 0.12 did at 5Mi tokens."""

    def boot(self) -> None:
        self.say_capacity(self.max_model_len * 3 // 4)


class RunsOutOfMemory(Honest):
    """The server runs out of GPU memory at boot and logs PyTorch's message."""

    def boot(self) -> None:
        say(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB. GPU 6 has a total capacity of "
            "140.06 GiB of which 3.12 GiB is free.",
            "ERROR",
        )
        sys.exit(1)


class DiesHanging(Honest):
    """The server runs out of GPU memory at boot, logs that its engine failed, as vLLM does, and then hangs."""

    def boot(self) -> None:
        say(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.22 GiB. GPU 0 has a total capacity of 139.80 GiB",
            "ERROR",
        )
        say("EngineCore failed to start.", "ERROR")
        time.sleep(3600)


class LosesWorker(Honest):
    """An external signal kills a worker process, and the engine that lost it hangs."""

    def boot(self) -> None:
        super().boot()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as worker:
            worker.kill()
        say(
            f"Worker proc VllmWorker-2 died unexpectedly (exit code: {worker.returncode}), shutting down executor.",
            "ERROR",
        )
        time.sleep(3600)


class IsKilled(Honest):
    """SIGKILL ends the server without a log line."""

    def boot(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class CriesWolf(Honest):
    """The server logs lines that look fatal but are harmless, and serves."""

    def boot(self) -> None:
        for _ in range(5):
            say(
                "No available shared memory broadcast block found in 60 seconds. This typically happens when some processes "
                "are hanging or doing some time-consuming work (e.g. compilation, weight/kv cache quantization)."
            )
        say(
            "Found ulimit of 20000 and failed to automatically increase with error current limit exceeds maximum limit."
        )
        say("UserWarning: resource_tracker: There appear to be 8 leaked semaphore objects to clean up at shutdown")
        super().boot()


LATE_FROM_TOKENS = 10_000


class LateFirstToken(Honest):
    """The server answers correctly, but a long prompt late."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        if request.tokens >= LATE_FROM_TOKENS:
            time.sleep(self.late_s)
        yield from super().events(request)


class TruncatesPrompt(Honest):
    """The server silently drops the front of a long prompt."""

    def usage(self, request: Request) -> dict[str, Any]:
        kept = request.tokens if spared(request) else request.tokens - request.tokens // 4
        return {**super().usage(request), "prompt_tokens": kept}


class MiscountsUsage(Honest):
    """The server reports more output tokens than it sent."""

    def usage(self, request: Request) -> dict[str, Any]:
        extra = 0 if spared(request) else 1
        return {**super().usage(request), "completion_tokens": request.max_tokens + extra}


class ClaimsTooMuch(Honest):
    """The server lists twice the context it serves."""

    def complaint(self, request: Request) -> str | None:
        if request.tokens + request.max_tokens > self.max_model_len // 2:
            return f"This model's maximum context length is {self.max_model_len // 2} tokens."
        return None


class TakesTooMuch(Honest):
    """The server accepts requests above its own limit."""

    def complaint(self, request: Request) -> str | None:
        return None


class DiesMidStream(Honest):
    """The server closes the connection after three chunks."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for i, event in enumerate(super().events(request)):
            if i == 3 and not spared(request):
                raise ConnectionResetError
            yield event


class ReadsOn(Honest):
    """The server completes the prefill although the client has disconnected."""

    def read(self, request: Request, gone: Callable[[], bool]) -> None:
        super().read(request, lambda: False)
        if gone():
            self.account(request, 0.0)


class StallsMidStream(Honest):
    """The server sends three chunks and then nothing more."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for i, event in enumerate(super().events(request)):
            if i == 3 and not spared(request):
                time.sleep(3600)
            yield event


class NeverSchedules(Honest):
    """The server is healthy with an empty cache, but one request waits without end, as in vLLM's admission hang."""

    def admit(self, request: Request) -> None:
        if not spared(request):
            with self.lock:
                self.waiting += 1
            time.sleep(3600)
        super().admit(request)


class StaysBlocked(Honest):
    """Like `NeverSchedules`, but later requests also wait behind the first, although its client has disconnected."""

    blocked = False

    def admit(self, request: Request) -> None:
        self.blocked = self.blocked or not spared(request)
        if self.blocked:
            with self.lock:
                self.waiting += 1
            time.sleep(3600)
        super().admit(request)


class ResetsConnection(Honest):
    """The server resets the connection instead of answering."""

    def complaint(self, request: Request) -> str | None:
        if not spared(request):
            raise ConnectionResetError
        return super().complaint(request)


class ErrorInStream(Honest):
    """The server answers 200 and sends its error inside the stream."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        if spared(request):
            yield from super().events(request)
        else:
            text = f"The input ({request.tokens} tokens) is longer than the model's context length."
            yield {"error": {"message": text, "type": "BadRequestError", "code": 400}}


class CachedAnswer(Honest):
    """The server answers a new prompt from a prepared answer."""

    def cached(self, request: Request) -> int:
        return 0 if spared(request) else request.tokens - 1


class ForgetsCache(Honest):
    """The server recomputes a prompt that it has just read."""

    def cached(self, request: Request) -> int:
        return 0


class KeepsCache(Honest):
    """The server confirms a cache reset without emptying the cache."""

    def reset(self) -> bool:
        return True


class CountersDisagree(Honest):
    """The server's usage record counts the whole prompt, its metrics counter a quarter less."""

    def account(self, request: Request, ttft_s: float) -> None:
        super().account(request, ttft_s)
        with self.lock:
            self.prompt_tokens -= 0 if spared(request) else request.tokens // 4


class ClockDisagrees(Honest):
    """The server reports a time to first token that no client waited for."""

    def account(self, request: Request, ttft_s: float) -> None:
        super().account(request, ttft_s if spared(request) else ttft_s + 5)


class HidesCounters(Honest):
    """The server's metrics page has gauges but no counters."""

    def metrics(self) -> str:
        return "\n".join(
            line for line in super().metrics().split("\n") if "_total" not in line and "_seconds" not in line
        )


FAULTS: Mapping[str, type[Honest]] = MappingProxyType(
    {
        "honest": Honest,
        "late-first-token": LateFirstToken,
        "truncates-prompt": TruncatesPrompt,
        "miscounts-usage": MiscountsUsage,
        "claims-too-much": ClaimsTooMuch,
        "takes-too-much": TakesTooMuch,
        "dies-mid-stream": DiesMidStream,
        "stalls-mid-stream": StallsMidStream,
        "stalls-halfway": request_faults.StallsHalfway,
        "stalls-in-prefill": request_faults.StallsInPrefill,
        "crawls": request_faults.Crawls,
        "crawls-in-prefill": request_faults.CrawlsInPrefill,
        "reads-on": ReadsOn,
        "never-schedules": NeverSchedules,
        "stays-blocked": StaysBlocked,
        "wedges": death_faults.Wedges,
        "engine-dies": death_faults.EngineDies,
        "runs-out-under-a-request": death_faults.RunsOutUnderARequest,
        "is-killed-under-a-request": death_faults.IsKilledUnderARequest,
        "resets-connection": ResetsConnection,
        "error-in-stream": ErrorInStream,
        "scored-answers": request_faults.ScoredAnswers,
        "depends-on-company": request_faults.DependsOnCompany,
        "coarse-cache": request_faults.CoarseCache,
        "garbled-cache": request_faults.GarbledCache,
        "cached-answer": CachedAnswer,
        "forgets-cache": ForgetsCache,
        "keeps-cache": KeepsCache,
        "counters-disagree": CountersDisagree,
        "clock-disagrees": ClockDisagrees,
        "hides-counters": HidesCounters,
        "hangs-at-boot": HangsAtBoot,
        "exits-at-boot": ExitsAtBoot,
        "never-healthy": NeverHealthy,
        "overcommits": Overcommits,
        "runs-out-of-memory": RunsOutOfMemory,
        "dies-hanging": DiesHanging,
        "loses-worker": LosesWorker,
        "is-killed": IsKilled,
        "cries-wolf": CriesWolf,
        "crawls-at-boot": CrawlsAtBoot,
        "wants-key": request_faults.WantsKey,
        "forbids": request_faults.Forbids,
        "answers-500": request_faults.Answers500,
        "has-no-completions": request_faults.HasNoCompletions,
        "is-a-web-page": request_faults.IsAWebPage,
        "loses-its-route": request_faults.LosesItsRoute,
    }
)
"""Every miniature by the name that a deployment gives in ``fault``."""
