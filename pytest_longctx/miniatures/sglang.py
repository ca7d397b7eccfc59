"""An honest miniature in SGLang's dialect: texts, counters and manners as 0.5.16 was seen to have them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_longctx.miniatures.server import Honest, Request

KEPT_TOKENS = 2
"""By how much an answer that fills the context is cut short (SG-0025)."""
CHUNK_TOKENS = 512
"""How many tokens of a prompt it reads before it looks whether its client is still there."""


@dataclass
class Sglang(Honest):
    """Unhealthy while it reads a long prompt, silent about a cache that had nothing, short with an answer at its limit."""

    version_path: ClassVar[str] = "/server_info"
    reset_path: ClassVar[str] = "/flush_cache"
    reading: int = 0
    worked_tokens: int = 0

    def boot(self) -> None:
        """Log what SGLang logs. A pool that holds less than one request is no reason to stop."""
        _say("Load weight begin. avail mem=1.00 GB")
        _say(
            f"max_total_num_tokens={self.pool}, chunked_prefill_size=8192, max_prefill_tokens=16384, "
            f"max_running_requests=8, context_len={self.max_model_len}, available_gpu_mem=1.00 GB"
        )
        _say("The server is fired up and ready to roll!")

    def healthy(self) -> bool:
        """Its health asks for a token, which waits behind a long prompt."""
        return not self.reading

    def complaint(self, request: Request) -> str | None:
        """Why *request* is refused, by its prompt alone or by prompt and answer; None if it is not."""
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
        """The body of an answer of 400: flat, where vLLM's has an error inside."""
        return {"object": "error", "message": complaint, "type": "BadRequestError", "param": None, "code": 400}

    def given(self, request: Request) -> int:
        """How many tokens *request* gets."""
        return min(request.max_tokens, max(1, self.max_model_len - KEPT_TOKENS - request.tokens))

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        """As vLLM's, with a shorter answer at the limit."""
        request.max_tokens = self.given(request)
        yield from super().events(request)

    def usage(self, request: Request) -> dict[str, Any]:
        """Cached tokens are named where there are some, and else there is no record of them."""
        cached = self.cached(request)
        return {**super().usage(request), "prompt_tokens_details": {"cached_tokens": cached} if cached else None}

    def read(self, request: Request, gone: Callable[[], bool]) -> None:
        """As any miniature, in chunks that are counted, and its health is red meanwhile."""
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
        """The ``/metrics`` page."""
        rows = {
            "num_running_reqs": self.running - self.reading,  # a prompt that is read in chunks neither runs nor waits
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
