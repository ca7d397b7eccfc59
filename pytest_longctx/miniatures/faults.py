"""One class, one fault. Prompts of `SMALL_TALK_TOKENS` or fewer are spared, so that each server looks ready."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pytest_longctx.miniatures.server import SMALL_TALK_TOKENS, Honest, Request, say

LATE_S = 0.6
LATE_FROM_TOKENS = 10_000


def spared(request: Request) -> bool:
    """Whether *request* is too small to be treated badly."""
    return request.tokens < SMALL_TALK_TOKENS


class LateFirstToken(Honest):
    """Answers truly; to a long prompt, late."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        if request.tokens >= LATE_FROM_TOKENS:
            time.sleep(LATE_S)
        yield from super().events(request)


class TruncatesPrompt(Honest):
    """Drops the front of a long prompt and says nothing."""

    def usage(self, request: Request) -> dict[str, Any]:
        kept = request.tokens if spared(request) else request.tokens - request.tokens // 4
        return {**super().usage(request), "prompt_tokens": kept}


class MiscountsUsage(Honest):
    """Reports more output than it gave."""

    def usage(self, request: Request) -> dict[str, Any]:
        extra = 0 if spared(request) else 1
        return {**super().usage(request), "completion_tokens": request.max_tokens + extra}


class ClaimsTooMuch(Honest):
    """Lists twice the context it serves."""

    def complaint(self, request: Request) -> str | None:
        if request.tokens + request.max_tokens > self.max_model_len // 2:
            return f"This model's maximum context length is {self.max_model_len // 2} tokens."
        return None


class TakesTooMuch(Honest):
    """Accepts requests over its own limit."""

    def complaint(self, request: Request) -> str | None:
        return None


class DiesMidStream(Honest):
    """Hangs up after three chunks."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for i, event in enumerate(super().events(request)):
            if i == 3 and not spared(request):
                raise ConnectionResetError
            yield event


class StallsMidStream(Honest):
    """Sends three chunks and then nothing, for ever."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        for i, event in enumerate(super().events(request)):
            if i == 3 and not spared(request):
                time.sleep(3600)
            yield event


class NeverSchedules(Honest):
    """Healthy, with an empty cache and a request that waits for ever: vLLM's admission hang."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        if not spared(request):
            with self.lock:
                self.running -= 1
                self.waiting += 1
            time.sleep(3600)
        yield from super().events(request)


class ResetsConnection(Honest):
    """Resets the connection instead of answering."""

    def complaint(self, request: Request) -> str | None:
        if not spared(request):
            raise ConnectionResetError
        return super().complaint(request)


class ErrorInStream(Honest):
    """Answers 200 and puts its error into the stream."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        if spared(request):
            yield from super().events(request)
        else:
            text = f"The input ({request.tokens} tokens) is longer than the model's context length."
            yield {"error": {"message": text, "type": "BadRequestError", "code": 400}}


class CachedAnswer(Honest):
    """Has an answer ready for a prompt it never saw."""

    def cached(self, request: Request) -> int:
        return 0 if spared(request) else request.tokens - 1


class ForgetsCache(Honest):
    """Recomputes a prompt it has just read."""

    def cached(self, request: Request) -> int:
        return 0


class HangsAtBoot(Honest):
    """Never opens its port."""

    def boot(self) -> None:
        super().boot()
        time.sleep(3600)


class ExitsAtBoot(Honest):
    """Ends with an exit code and no known last word."""

    def boot(self) -> None:
        say("something nobody has seen before")
        sys.exit(3)


class NeverHealthy(Honest):
    """Opens its port, and its health is never green."""

    def healthy(self) -> bool:
        return False


class Overcommits(Honest):
    """Comes up with a KV cache that cannot hold one request of the length it lists, as vLLM 0.12 did at 5Mi tokens."""

    def boot(self) -> None:
        self.say_capacity(self.max_model_len * 3 // 4)


class RunsOutOfMemory(Honest):
    """Runs out of GPU memory at boot, in PyTorch's words."""

    def boot(self) -> None:
        say(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB. GPU 6 has a total capacity of "
            "140.06 GiB of which 3.12 GiB is free."
        )
        sys.exit(1)


class DiesHanging(Honest):
    """Runs out of GPU memory at boot, says so, and then neither goes on nor ends."""

    def boot(self) -> None:
        say(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.22 GiB. GPU 0 has a total capacity of 139.80 GiB"
        )
        time.sleep(3600)


class LosesWorker(Honest):
    """A worker process is killed from outside, and the engine that lost it hangs."""

    def boot(self) -> None:
        super().boot()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as worker:
            worker.kill()
        say(f"Worker proc VllmWorker-2 died unexpectedly (exit code: {worker.returncode}), shutting down executor.")
        time.sleep(3600)


class IsKilled(Honest):
    """Is ended by SIGKILL without a word."""

    def boot(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class CriesWolf(Honest):
    """Logs what looks fatal and is not, and serves."""

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
        "never-schedules": NeverSchedules,
        "resets-connection": ResetsConnection,
        "error-in-stream": ErrorInStream,
        "cached-answer": CachedAnswer,
        "forgets-cache": ForgetsCache,
        "hangs-at-boot": HangsAtBoot,
        "exits-at-boot": ExitsAtBoot,
        "never-healthy": NeverHealthy,
        "overcommits": Overcommits,
        "runs-out-of-memory": RunsOutOfMemory,
        "dies-hanging": DiesHanging,
        "loses-worker": LosesWorker,
        "is-killed": IsKilled,
        "cries-wolf": CriesWolf,
    }
)
"""Every miniature by the name its deployment gives in ``fault``."""
