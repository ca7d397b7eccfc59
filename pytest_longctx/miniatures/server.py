"""A correct miniature: its answers, its parsed request, and its HTTP server."""

import hashlib
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, ClassVar, Final, NamedTuple

from pytest_longctx.miniatures import scoring

SMALL_TALK_TOKENS: Final = 16
"""Shorter prompts are not affected by faults, so that a faulty server still looks ready."""


@dataclass(slots=True)
class Request:
    """A completion request, reduced to the parts of the prompt that a server without a model needs."""

    tokens: int
    digest: str
    max_tokens: int
    stream: bool

    @classmethod
    def parse(cls, body: bytes) -> "Request":
        """Return the request in *body*, whose ids stay unparsed because there may be ten million."""
        start = body.index(b"[", body.index(b'"prompt"')) + 1
        end = body.index(b"]", start)
        rest = json.loads(body[:start] + body[end:])
        digest = hashlib.sha256(memoryview(body)[start:end])
        digest.update(rest.get("cache_salt", "").encode())
        count = body.count(b",", start, end) + 1
        return cls(count, digest.hexdigest(), rest.get("max_tokens", 16), bool(rest.get("stream")))


def spared(request: Request) -> bool:
    """Return whether *request* to the miniature server is too small to be affected by a fault."""
    return request.tokens < SMALL_TALK_TOKENS


BLOCK_TOKENS = 16
LATE_S = 0.6
READ_S = 0.4
READ_FROM_TOKENS = 50_000
CRAWL_S = 5.0


class Instead(NamedTuple):
    """A faulty server's response in place of the correct one."""

    status: int
    body: bytes
    kind: str = "application/json"


@dataclass
class Honest:
    """A correct server: it serves the listed context, counts the tokens of each prompt, and reports the counts."""

    version_path: ClassVar[str] = "/version"
    reset_path: ClassVar[str] = "/reset_prefix_cache"
    predictor: ClassVar[scoring.Predictor] = scoring.Predictor()
    model: str = "miniature"
    max_model_len: int = 131_072
    kv_cache_tokens: int | None = None
    """Size of the simulated KV cache in tokens; ``None`` means twice max_model_len."""
    seen: set[str] = field(default_factory=set)
    running: int = 0
    waiting: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    first_tokens: int = 0
    ttft_s: float = 0.0
    lock: Lock = field(default_factory=Lock)
    late_s: float = LATE_S
    read_s: float = READ_S
    """Simulated prefill time of a prompt of `READ_FROM_TOKENS` or more. Shorter prompts take no time."""
    crawl_s: float = CRAWL_S
    """Interval between the steps of a slow answer."""

    @property
    def pool(self) -> int:
        """Size of the miniature server's simulated KV cache in tokens."""
        return self.kv_cache_tokens or 2 * self.max_model_len

    def boot(self) -> None:
        """Write the miniature server's boot log as vLLM does, and exit like vLLM if one request does not fit."""
        say(f"Using max model len {self.max_model_len}")
        if self.pool < self.max_model_len:
            # 32 KiB for each token, as for a model with 8 layers and 8 KV heads of dimension 128.
            needed, room = self.max_model_len / 32768, self.pool / 32768
            say(
                f"ValueError: To serve at least one request with the model's max seq len ({self.max_model_len}), "
                f"({needed:.2f} GiB KV cache is needed, which is larger than the available KV cache memory "
                f"({room:.2f} GiB). Based on the available memory, the estimated maximum model length is {self.pool}.",
                "ERROR",
            )
            sys.exit(1)
        self.say_capacity(self.pool)

    def say_capacity(self, pool: int) -> None:
        """Log the size of a KV cache of *pool* tokens in vLLM's format."""
        say(
            f"CPU KV cache size: {pool:,} tokens, Maximum concurrency for "
            f"{self.max_model_len:,} tokens per request: {pool / self.max_model_len:.2f}x"
        )

    def instead(self, method: str, path: str) -> Instead | None:
        """
        Return the response that a faulty miniature sends to any request instead of the correct one; ``None``
        for none.
        """
        return None

    def instead_of(self, request: Request) -> Instead | None:
        """
        Return the response that a faulty miniature sends to a completion instead of the correct one; ``None``
        for none.
        """
        return None

    def kv_usage(self) -> float:
        """Return the share of the miniature server's simulated KV cache in use."""
        return 0.5 if self.running else 0.0

    def healthy(self) -> bool:
        """Return whether the miniature server answers ``/health`` with 200."""
        return True

    def complaint(self, request: Request) -> str | None:
        """Return why the miniature server refuses *request*; ``None`` if it serves it."""
        if request.tokens + request.max_tokens <= self.max_model_len:
            return None
        return (
            f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt contains "
            f"{request.tokens} input tokens and {request.max_tokens} output tokens were requested."
        )

    def refusal(self, complaint: str) -> dict[str, Any]:
        """Return the body of the miniature server's 400 response."""
        return {"error": {"message": complaint, "type": "BadRequestError", "param": "input_tokens", "code": 400}}

    def cached(self, request: Request) -> int:
        """
        Return the number of tokens of *request* in the miniature's prefix cache: whole blocks of an earlier prompt,
        except the last.
        """
        return (request.tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS if request.digest in self.seen else 0

    def scores(self, path: str, body: bytes) -> dict[str, Any] | None:
        """Return the miniature's answer to a request for the log-probabilities of a prompt; None for any other request."""
        return scoring.vllm_page(self.predictor, json.loads(body)) if b'"prompt_logprobs"' in body else None

    def usage(self, request: Request) -> dict[str, Any]:
        """Return the usage record of the miniature's answer to *request*."""
        read, given = request.tokens, request.max_tokens
        return {"prompt_tokens": read, "completion_tokens": given, "total_tokens": read + given}

    def admit(self, request: Request) -> None:
        """Register *request* as running on the miniature server."""
        with self.lock:
            self.running += 1

    def leave(self, request: Request) -> None:
        """Remove *request* from those running on the miniature server."""
        with self.lock:
            self.running -= 1

    def read(self, request: Request, gone: Callable[[], bool]) -> None:
        """Simulate how the miniature server reads the prompt, as long as a client waits."""
        end_s = time.monotonic() + (self.read_s if request.tokens >= READ_FROM_TOKENS else 0)
        while time.monotonic() < end_s:
            if gone():
                raise ConnectionAbortedError
            time.sleep(0.01)

    def events(self, request: Request) -> Iterator[dict[str, Any]]:
        """
        Yield the miniature's stream events. A ConnectionError raised here or by `complaint` resets the
        connection.
        """
        for i in range(request.max_tokens):
            last = i == request.max_tokens - 1
            yield {"choices": [{"index": 0, "text": f" w{i}", "finish_reason": "length" if last else None}]}
        yield {"choices": [], "usage": self.usage(request)}

    def account(self, request: Request, ttft_s: float) -> None:
        """Increase the miniature server's counters after *request* is answered."""
        with self.lock:
            self.first_tokens += 1
            self.ttft_s += ttft_s
            self.cached_tokens += self.cached(request)
            self.prompt_tokens += request.tokens
            self.generated_tokens += request.max_tokens
            self.seen.add(request.digest)

    def reset(self) -> bool:
        """Empty the miniature's prefix cache, and return whether that was done."""
        self.seen.clear()
        return True

    def metrics(self) -> str:
        """Return the miniature server's ``/metrics`` page."""
        rows = {
            "vllm:num_requests_running": self.running,
            "vllm:num_requests_waiting": self.waiting,
            "vllm:kv_cache_usage_perc": self.kv_usage(),
            "vllm:prompt_tokens_total": self.prompt_tokens,
            "vllm:prefix_cache_hits_total": self.cached_tokens,
            "vllm:generation_tokens_total": self.generated_tokens,
            "vllm:time_to_first_token_seconds_count": self.first_tokens,
            "vllm:time_to_first_token_seconds_sum": self.ttft_s,
        }
        lines = [f'{name}{{engine="0",model_name="{self.model}"}} {value}' for name, value in rows.items()]
        return "\n".join([*lines, 'vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0"} 1.0', ""])


def say(line: str, level: str = "INFO") -> None:
    """Write one line to the miniature's log, at *level*."""
    print(f"(EngineCore pid=1) {level} {time.strftime('%m-%d %H:%M:%S')} [miniature.py:1] {line}", flush=True)


class Handler(BaseHTTPRequestHandler):
    """HTTP handler of an `Honest` server or of a faulty subclass."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise delayed acknowledgement adds 40 ms to every answer
    mind: Honest
    key: str | None = None

    def _locked(self) -> bool:
        """
        Refuse requests to the miniature without the key, and return whether the request was refused. As in vLLM, only
        ``/v1`` is protected.
        """
        known = self.key is None or self.headers.get("Authorization") == f"Bearer {self.key}"
        if known or not self.path.startswith("/v1"):
            return False
        self._send(401, b'{"error": "Unauthorized"}')
        return True

    def _overruled(self, method: str) -> bool:
        """Send the replacement response of a faulty miniature, and return whether one exists."""
        other = self.mind.instead(method, self.path)
        if other is not None:
            self._send(*other)
        return other is not None

    def do_GET(self) -> None:
        """Serve the miniature's health, model list, version and metrics."""
        if self._overruled("GET") or self._locked():
            return
        mind = self.mind
        if self.path == "/health":
            self._send(200 if mind.healthy() else 503, b"")
        elif self.path == "/v1/models":
            row = {"id": mind.model, "object": "model", "max_model_len": mind.max_model_len}
            self._send(200, json.dumps({"object": "list", "data": [row]}).encode())
        elif self.path == mind.version_path:
            self._send(200, b'{"version": "0.0.0+miniature"}')
        elif self.path == "/metrics":
            self._send(200, mind.metrics().encode(), "text/plain")
        else:
            self._send(404, b'{"detail": "Not Found"}')

    def do_POST(self) -> None:
        """Serve the miniature's completion, streamed or whole, or reset its cache."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._overruled("POST") or self._locked():
            return
        if self.path == self.mind.reset_path:
            self._send(200, json.dumps({"success": self.mind.reset()}).encode())
            return
        if (page := self.mind.scores(self.path, body)) is not None:
            self._send(200, json.dumps(page).encode())
            return
        request = Request.parse(body)
        try:
            self._answer(request)
        except ConnectionError:
            # Closing without lingering resets the connection. If the client has disconnected already, this has no effect.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

    def _answer(self, request: Request) -> None:
        if other := self.mind.instead_of(request):
            self._send(*other)
        elif complaint := self.mind.complaint(request):
            self._send(400, json.dumps(self.mind.refusal(complaint)).encode())
        elif not request.stream:
            self.mind.account(request, 0.0)
            self._send(200, json.dumps({"choices": [{"text": " w0"}], "usage": self.mind.usage(request)}).encode())
        else:
            self.mind.admit(request)
            try:
                self._stream(request)
            finally:
                self.mind.leave(request)

    def _stream(self, request: Request) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        received_s, first_s = time.monotonic(), None
        self.mind.read(request, self._gone)
        for event in self.mind.events(request):
            first_s = first_s or time.monotonic()
            self._chunk(f"data: {json.dumps(event)}\n\n".encode())
        self.mind.account(request, (first_s or received_s) - received_s)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _gone(self) -> bool:
        """Return whether the miniature's client has disconnected: the socket is then readable and returns no data."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the miniature server's log line of each request."""


class Quiet(ThreadingHTTPServer):
    """A threading server that prints no traceback when a client disconnects."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections to the miniature that were broken on purpose."""


def serve(mind: Honest, host: str, port: int) -> None:
    """
    Boot the miniature server *mind* and serve until terminated. If ``VLLM_API_KEY`` is set, clients need that
    key.
    """
    mind.boot()
    handler = type("MindedHandler", (Handler,), {"mind": mind, "key": os.environ.get("VLLM_API_KEY")})
    with Quiet((host, port), handler) as server:
        print("INFO:     Application startup complete.", flush=True)
        server.serve_forever()
