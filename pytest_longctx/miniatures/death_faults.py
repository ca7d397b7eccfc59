"""Faults of a server that boots and then fails under a long prompt, one class each, with log lines observed in vLLM."""

import os
import signal
import time
from collections.abc import Iterator
from threading import Event, Timer
from typing import Any

from pytest_longctx.miniatures.server import Honest, Request, say, spared

_SHUTDOWN_S = 0.3
"""Time that the API server outlives its engine; two seconds in vLLM 0.32."""
_ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_OUT_OF_MEMORY = """
EngineCore encountered a fatal error.
Traceback (most recent call last):
  File "vllm/v1/engine/core.py", line 1222, in run_engine_core
    engine_core.run_busy_loop()
  File "vllm/v1/worker/gpu_worker.py", line 611, in execute_model
    output = self.model_runner.execute_model(scheduler_output)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 3 has a total capacity of 139.80 GiB of which \
1.75 GiB is free.
"""


class Wedges(Honest):
    """The engine loop stops at the first long prompt. Health stays green and no request is answered."""

    wedged = False

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        self.wedged = self.wedged or not spared(request)
        if self.wedged:
            Event().wait()
        yield from super().events(request)


class EngineDies(Honest):
    """The engine dies at the first long prompt and health reports it. Connections stay open without data."""

    dead = False

    def healthy(self) -> bool:
        return not self.dead

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        self.dead = self.dead or not spared(request)
        if self.dead:
            Event().wait()
        yield from super().events(request)


class RunsOutUnderARequest(Honest):
    """The server runs out of GPU memory at the first long prompt, logs it, and shuts down with exit code 0."""

    dead = False

    def healthy(self) -> bool:
        return not self.dead

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        if not spared(request) and not self.dead:
            for line in _OUT_OF_MEMORY.strip().splitlines():
                say(line)
            self.dead = True
            Timer(_SHUTDOWN_S, os._exit, (0,)).start()
        if self.dead:
            yield {"error": {"message": _ENGINE_DEAD, "type": "InternalServerError", "code": 500}}
        else:
            yield from super().events(request)


class IsKilledUnderARequest(Honest):
    """SIGKILL ends the server in the middle of a long prompt."""

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        if not spared(request):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().events(request)
