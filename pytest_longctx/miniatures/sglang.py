"""A correct miniature in SGLang's dialect: messages, counters and behaviour as observed in 0.5.16."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_longctx.miniatures import scoring
from pytest_longctx.miniatures.server import Honest, Request

KEPT_TOKENS = 2
"""Number of tokens by which an answer that fills the context is shortened (SG-0025)."""
CHUNK_TOKENS = 512
"""Number of prompt tokens that the server reads between two checks for a disconnected client."""


@dataclass
class Sglang(Honest):
    """
    A server that behaves as SGLang: unhealthy during a long prompt, no cache record without a hit, a shorter answer at
    the limit.
    """

    version_path: ClassVar[str] = "/server_info"
    reset_path: ClassVar[str] = "/flush_cache"
    reading: int = 0
    worked_tokens: int = 0

    def boot(self) -> None:
        """Write the SGLang miniature's boot log. A pool smaller than one request does not stop the boot."""
        _say("Load weight begin. avail mem=1.00 GB")
        _say(
            f"max_total_num_tokens={self.pool}, chunked_prefill_size=8192, max_prefill_tokens=16384, "
            f"max_running_requests=8, context_len={self.max_model_len}, available_gpu_mem=1.00 GB"
        )
        _say("The server is fired up and ready to roll!")

    def healthy(self) -> bool:
        """Return the result of the SGLang health check, which requests a token and therefore waits behind a long prompt."""
        return not self.reading

    def complaint(self, request: Request) -> str | None:
        """
        Return why the SGLang miniature refuses *request*, for its prompt or for prompt and answer together; ``None`` if
        it serves it.
        """
        most, wanted = self.max_model_len, request.tokens + request.max_tokens
        if request.tokens >= most:
            return f"The input ({request.tokens} tokens) is longer than the model's context length ({most} tokens)."
        if wanted <= most:
            return None
        return (
            f"Requested token count exceeds the model's maximum context length of {most} tokens. You requested a total of "
            f"{wanted} tokens: {request.tokens} tokens from the input messages and {request.max_tokens} tokens for the "
            "completion. Please reduce the number of tokens in the input messages or the completion to fit within the limit."
        )

    def refusal(self, complaint: str) -> dict[str, Any]:
        """Return the body of SGLang's 400 response, which is flat, whereas vLLM nests the error."""
        return {"object": "error", "message": complaint, "type": "BadRequestError", "param": None, "code": 400}

    def scores(self, path: str, body: bytes) -> dict[str, Any] | None:
        """Return the SGLang miniature's answer to ``/generate``; None for any other request."""
        return scoring.sglang_page(self.predictor, json.loads(body)) if path == "/generate" else None

    def given(self, request: Request) -> int:
        """Return the number of answer tokens that the SGLang miniature gives *request*."""
        return min(request.max_tokens, max(1, self.max_model_len - KEPT_TOKENS - request.tokens))

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        """Yield the SGLang miniature's events, as vLLM's, with a shorter answer at the limit."""
        request.max_tokens = self.given(request)
        yield from super().events(request)

    def usage(self, request: Request) -> dict[str, Any]:
        """Return the SGLang miniature's usage record, which contains cached tokens only if there are any."""
        cached = self.cached(request)
        return {**super().usage(request), "prompt_tokens_details": {"cached_tokens": cached} if cached else None}

    def read(self, request: Request, gone: Callable[[], bool]) -> None:
        """Read the prompt in counted chunks, as SGLang does. Meanwhile, the health check fails."""
        left = request.tokens

        def chunk() -> bool:
            nonlocal left
            read, left = min(left, CHUNK_TOKENS), max(left - CHUNK_TOKENS, 0)
            self.worked_tokens += read
            return gone()

        self.reading += 1
        try:
            super().read(request, chunk)
            self.worked_tokens += left
        finally:
            self.reading -= 1

    def metrics(self) -> str:
        """Return the SGLang miniature's ``/metrics`` page."""
        rows = {
            "num_running_reqs": self.running
            - self.reading,  # a prompt during chunked prefill counts neither as running nor as waiting
            "num_queue_reqs": self.waiting,
            "token_usage": 0.5 if self.running else 0.0,
            "realtime_tokens_total": self.worked_tokens,
            "prompt_tokens_total": self.prompt_tokens,
            "cached_tokens_total": self.cached_tokens,
            "generation_tokens_total": self.generated_tokens,
            "time_to_first_token_seconds_count": self.first_tokens,
            "time_to_first_token_seconds_sum": self.ttft_s,
        }
        labels = f'{{engine_type="unified",model_name="{self.model}"}}'
        return "\n".join([*(f"sglang:{name}{labels} {value}" for name, value in rows.items()), ""])


def _say(line: str) -> None:
    print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {line}", flush=True)
