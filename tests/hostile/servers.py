"""
Hostile servers: one honest server on raw sockets, and attacks on each of its pages and on its stream.

Raw sockets, because an HTTP library would not send most of this. Each attack is a function that yields the bytes of the answer.
"""

import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.deployment import Deployment
from tests.unit import factories

Answer = Callable[[], Iterator[bytes]]
MIB = 2**20
STOPPED = Event()
"""Set when a test is over, so that no server sleeps on."""

METRICS = """vllm:num_requests_running{engine="0"} 0.0
vllm:num_requests_waiting{engine="0"} 0.0
vllm:kv_cache_usage_perc{engine="0"} 0.0
vllm:prompt_tokens_total{engine="0"} 10.0
vllm:generation_tokens_total{engine="0"} 10.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0"} 1.0
"""
CHUNK = {"choices": [{"index": 0, "text": " w", "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 32, "completion_tokens": 4, "total_tokens": 36}}
ROW = {"id": "llama", "object": "model", "max_model_len": 4096}


def whole(
    body: bytes | str | Any, status: int = 200, kind: str = "application/json", *more: str, length: int | None = None
) -> bytes:
    """An HTTP answer with *body*, written as JSON unless it is text or bytes."""
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass") if isinstance(body, str) else None
    raw = json.dumps(body).encode() if raw is None else raw
    size = len(raw) if length is None else length
    return head(status, kind, f"Content-Length: {size}", *more) + raw


def head(status: int = 200, kind: str = "application/json", *more: str) -> bytes:
    """The head of an HTTP answer that ends with the connection."""
    lines = (f"HTTP/1.1 {status} Word", f"Content-Type: {kind}", "Connection: close", *more)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def chunk(text: bytes, size: int | None = None) -> bytes:
    """A chunk of an answer in chunks, which may lie about its *size*."""
    return b"%x\r\n" % (len(text) if size is None else size) + text + b"\r\n"


def events(*data: Any, done: bool = True) -> bytes:
    """Events of a stream, and its closing event."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in (*data, *(["[DONE]"] if done else []))]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def stream(*parts: bytes) -> bytes:
    return head(200, "text/event-stream") + b"".join(parts)


def pause(seconds: float) -> None:
    STOPPED.wait(seconds)


def silent() -> Iterator[bytes]:
    pause(60)
    yield b""


def endless(piece: bytes) -> Iterator[bytes]:
    while not STOPPED.is_set():
        yield piece


def drip(text: bytes, every_s: float = 0.05) -> Iterator[bytes]:
    """One byte at a time, and blanks without end after the last."""
    for byte in (*text, *([32] * 10_000)):
        yield bytes([byte])
        pause(every_s)
        if STOPPED.is_set():
            return


def bomb(fmt: int = 16 + zlib.MAX_WBITS) -> Iterator[bytes]:
    """Zeros without end, compressed to a thousandth."""
    pack = zlib.compressobj(1, zlib.DEFLATED, fmt)
    for zeros in endless(b" " * MIB):
        if made := pack.compress(zeros) + pack.flush(zlib.Z_SYNC_FLUSH):
            yield made


DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000
DEEP_LIST = "[" * 50_000 + "]" * 50_000


def _then(first: bytes, rest: Callable[[], Iterator[bytes]]) -> Answer:
    def answer() -> Iterator[bytes]:
        yield first
        yield from rest()

    return answer


def just(made: bytes) -> Answer:
    return lambda: iter((made,))


PAGE_ATTACKS: Mapping[str, Answer] = {
    "gzip-bomb": _then(head(200, "application/json", "Content-Encoding: gzip"), bomb),
    "deflate-bomb": _then(head(200, "application/json", "Content-Encoding: deflate"), lambda: bomb(zlib.MAX_WBITS)),
    "unknown-encoding": just(whole(b"x" * 100, 200, "application/json", "Content-Encoding: br")),
    "false-gzip": just(whole(b"not gzip at all", 200, "application/json", "Content-Encoding: gzip")),
    "codec-charset": just(whole(zlib.compress(b"0" * MIB), 200, "text/plain; charset=zip")),
    "endless-body": _then(head(), lambda: endless(b" " * 65536)),
    "endless-line": _then(head(200, "text/plain"), lambda: endless(b"vllm:num_requests_running" * 1000)),
    "endless-headers": _then(b"HTTP/1.1 200 OK\r\n", lambda: endless(b"X-A: b\r\n" * 100)),
    "long-header": just(head(200, "text/plain", "X-A: " + "b" * MIB)),
    "informational-flood": _then(b"", lambda: endless(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    "drip-headers": lambda: drip(head(200)),
    "drip-body": _then(head(200), lambda: drip(b"{")),
    "deep-json": just(whole(DEEP)),
    "deep-list": just(whole(DEEP_LIST)),
    "long-integer": just(whole('{"version": ' + "9" * 5000 + "}")),
    "wide-integer": just(whole('{"data": [{"id": "llama", "max_model_len": ' + "9" * 400 + "}]}")),
    "not-a-number": just(whole('{"data": [{"id": "llama", "max_model_len": NaN}], "version": Infinity}')),
    "array": just(whole("[1]")),
    "null": just(whole("null")),
    "text": just(whole('"text"')),
    "nothing": just(whole(b"")),
    "binary": just(whole(bytes(range(256)) * 10)),
    "short-body": just(whole(b"{}", length=1000)),
    "negative-length": just(head(200, "application/json", "Content-Length: -5") + b"{}"),
    "bad-chunks": just(head(200, "application/json", "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n"),
    "no-http": just(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "closes-at-once": just(b""),
    "redirects-to-itself": just(whole(b"", 302, "text/plain", "Location: /health")),
    "commands": just(whole("\n::error file=x::y\n##[error]z\n##vso[task.setvariable variable=a]b", 500)),
    "escapes": just(whole("\x1b]0;title\x07\x1b[2J\x1b[31mred", 500)),
}
"""Attacks that are possible on any page."""

METRIC_VALUES = ("NaN", "+Inf", "-Inf", "-5", "1e308", "9" * 400, "0x10", "", "1 2 3", '"')


def _metrics(value: str) -> Answer:
    rows = "".join(f'{line.partition("{")[0]}{{engine="0"}} {value}\n' for line in METRICS.splitlines()[:5])
    return just(whole(rows, 200, "text/plain"))


METRICS_ATTACKS: Mapping[str, Answer] = {
    **{f"metrics-value-{index}": _metrics(value) for index, value in enumerate(METRIC_VALUES)},
    "metrics-open-label": just(whole('vllm:num_requests_running{engine="0\n', 200, "text/plain")),
    "metrics-many-lines": just(whole("vllm:num_requests_running 1\n" * 50_000, 200, "text/plain")),
}


def _error(body: bytes | str, status: int = 400, *more: str) -> Answer:
    return just(whole(body, status, "application/json", *more))


STREAM_ATTACKS: Mapping[str, tuple[Answer, str]] = {
    # by the standard, and so complete
    "id-alone": (just(stream(b"id: 7\n\n", events(CHUNK, USAGE))), "complete"),
    "retry-alone": (just(stream(b"retry: 10\n\n", events(CHUNK, USAGE))), "complete"),
    "ping": (just(stream(b"event: ping\ndata: hello\n\n", events(CHUNK, USAGE))), "complete"),
    "ping-without-data": (just(stream(b"event: ping\n\n", events(CHUNK, USAGE))), "complete"),
    "comments": (just(stream(b": a comment\n\n:\n", events(CHUNK, USAGE))), "complete"),
    "byte-order-mark": (just(stream(b"\xef\xbb\xbf", events(CHUNK, USAGE))), "complete"),
    "carriage-returns": (just(stream(events(CHUNK, USAGE).replace(b"\n", b"\r"))), "complete"),
    "both-line-ends": (just(stream(events(CHUNK, USAGE).replace(b"\n", b"\r\n"))), "complete"),
    "byte-by-byte": (_then(stream(), lambda: (bytes([one]) for one in events(CHUNK, USAGE))), "complete"),
    "several-data-lines": (
        just(stream(b'data: {"choices":\ndata: [{"text": "a"}]}\n\n', events(CHUNK, USAGE))),
        "complete",
    ),
    "no-blank-after-colon": (just(stream(b'data:{"choices":[{"text":"a"}]}\n\n', events(USAGE))), "complete"),
    "unknown-fields": (just(stream(b"other: x\nfoo\n\n", events(CHUNK, USAGE))), "complete"),
    "empty-data": (just(stream(b"id: 1\n\nretry: 3\n\n\n\n", events(CHUNK, USAGE))), "complete"),
    "gzip-stream": (
        just(head(200, "text/event-stream", "Content-Encoding: gzip") + gzip.compress(events(CHUNK, USAGE))),
        "complete",
    ),
    "odd-counts": (
        just(stream(events(CHUNK, {"choices": [], "usage": {"prompt_tokens": -3, "completion_tokens": True}}))),
        "complete",
    ),
    # vLLM ends the requests that are running in this way when its engine is asked to end
    "aborted": (
        just(stream(events({"choices": [{"index": 0, "text": "", "finish_reason": "abort"}]}, USAGE))),
        "server error",
    ),
    "ended-without-a-token": (
        just(
            stream(events({"choices": [], "usage": {"prompt_tokens": 32, "completion_tokens": 0, "total_tokens": 32}}))
        ),
        "server error",
    ),
    # over a limit
    "endless-line": (_then(stream(b"data: "), lambda: endless(b"x" * 65536)), "malformed"),
    "endless-field": (_then(stream(), lambda: endless(b"x" * 65536)), "malformed"),
    "endless-event": (_then(stream(), lambda: endless(b"data: xxxxxxxxxxxxxxxx\n" * 1000)), "malformed"),
    "endless-chunks": (_then(stream(), lambda: endless(events(CHUNK, done=False) * 100)), "malformed"),
    "gzip-bomb-stream": (_then(head(200, "text/event-stream", "Content-Encoding: gzip"), bomb), "malformed"),
    "unknown-encoding-stream": (just(head(200, "text/event-stream", "Content-Encoding: zstd") + b"x"), "malformed"),
    "false-gzip-stream": (just(head(200, "text/event-stream", "Content-Encoding: gzip") + b"data: x\n\n"), "malformed"),
    # no completion
    "deep-event": (just(stream(events(DEEP))), "malformed"),
    "long-integer-event": (just(stream(events('{"choices": [], "x": ' + "9" * 5000 + "}"))), "malformed"),
    "not-a-number-event": (just(stream(events('{"choices": [], "usage": {"prompt_tokens": NaN}}'))), "malformed"),
    "array-event": (just(stream(events("[1]"))), "malformed"),
    "text-event": (just(stream(events("hello"))), "malformed"),
    "choices-of-text": (just(stream(events({"choices": "abc"}))), "malformed"),
    "text-of-number": (just(stream(events({"choices": [{"text": 5}]}))), "malformed"),
    "text-of-list": (just(stream(events({"choices": [{"text": ["a"]}]}))), "malformed"),
    "usage-of-list": (just(stream(events({"choices": [], "usage": [1]}))), "malformed"),
    "page-instead": (just(whole("{}")), "not asked"),
    # ended
    "no-done": (just(stream(events(CHUNK, USAGE, done=False))), "died mid-stream"),
    "bad-chunks-stream": (
        just(head(200, "text/event-stream", "Transfer-Encoding: chunked") + b"zz\r\n"),
        "died mid-stream",
    ),
    "closes": (just(b""), "disconnected"),
    "no-http-answer": (just(b"\x00\x01\x02\r\n\r\n"), "disconnected"),
    "endless-stream-headers": (_then(b"HTTP/1.1 200 OK\r\n", lambda: endless(b"X-A: b\r\n" * 100)), "disconnected"),
    # errors
    "surrogate-error": (_error('{"error": {"message": "a \\ud800 b"}}'), "refused"),
    "commands-error": (_error(json.dumps({"error": {"message": "a\n::error::b\n##[error]c\n##vso[x]d"}})), "refused"),
    "escapes-error": (_error(json.dumps({"error": {"message": "\x1b]0;t\x07\x1b[2J a \x9b31m \u202e b"}})), "refused"),
    "deep-error": (_error(DEEP), "refused"),
    "deep-error-500": (_error('{"error":' * 600 + "1" + "}" * 600, 500), "server error"),
    "list-error": (_error("[1, 2]"), "refused"),
    "number-error": (_error('{"error": 5}'), "refused"),
    "binary-error": (_error(bytes(range(256))), "refused"),
    "bomb-error": (_then(head(400, "application/json", "Content-Encoding: gzip"), bomb), "refused"),
    "endless-error": (_then(head(400), lambda: endless(b"long " * 10_000)), "refused"),
    "drip-error": (_then(head(400), lambda: drip(b"no ")), "refused"),
    "code-of-error-event": (just(stream(events({"error": {"message": "m", "code": 10**300}}))), "malformed"),
    "error-event": (just(stream(b'event: error\ndata: {"error": {"message": "m", "code": 400}}\n\n')), "refused"),
    "silence": (_then(b"", silent), "deadline"),
    "drip-of-comments": (_then(stream(), lambda: drip(b":" * 1000)), "deadline"),
}
"""Attacks on the answer of a streamed completion, with the ending of each."""


@dataclass
class Hostile:
    """An honest server, except for the pages in *attacks*."""

    attacks: Mapping[str, Answer] = field(default_factory=dict)
    """By ``health``, ``models``, ``version``, ``metrics``, ``token`` (a completion that is not streamed) and ``stream``."""
    heads: list[bytes] = field(default_factory=list)
    """The heads of the requests that came."""

    def answer(self, request: bytes, body: bytes) -> Iterator[bytes]:
        """The bytes of the answer."""
        path = request.split(b" ")[1].decode()
        streamed = b'"stream": true' in body or b'"stream":true' in body
        page = {"/health": "health", "/v1/models": "models", "/version": "version", "/metrics": "metrics"}.get(path)
        page = page or ("stream" if streamed else "token")
        if page in self.attacks:
            yield from self.attacks[page]()
        else:
            yield _HONEST[page]


_HONEST = {
    "health": whole(b""),
    "models": whole({"object": "list", "data": [ROW]}),
    "version": whole({"version": "0.12.0"}),
    "metrics": whole(METRICS, 200, "text/plain"),
    "token": whole({"choices": [{"text": " w"}], "usage": USAGE["usage"]}),
    "stream": stream(events(*[CHUNK] * 4, USAGE)),
}


def _received(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of one request, and its body."""
    taken = b""
    while b"\r\n\r\n" not in taken:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError
        taken += part
    first, _, body = taken.partition(b"\r\n\r\n")
    lengths = [line for line in first.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    size = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < size:
        body += connection.recv(65536)
    return first, body


def _attend(connection: socket.socket, mind: Hostile) -> None:
    with suppress(OSError), connection:
        first, body = _received(connection)
        mind.heads.append(first)
        for piece in mind.answer(first, body):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        while connection.recv(65536):
            pass


def _unix(at: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(at))
    made.listen(64)
    return made


@contextmanager
def listening(mind: Hostile, at: Path | None = None) -> Iterator[str]:
    """Serve *mind* on a free port and yield its URL, or at the Unix socket *at* and yield its path."""
    STOPPED.clear()
    with socket.create_server(("127.0.0.1", 0), backlog=64) if at is None else _unix(at) as listener:
        threads: list[Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(Thread(target=_attend, args=(connection, mind), daemon=True))
                threads[-1].start()

        accepting = Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}" if at is None else str(at)
        finally:
            STOPPED.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            accepting.join(5)
            for thread in threads:
                thread.join(5)


def deployment(boot_s: float, answer_s: float = 5.0) -> Deployment:
    """The deployment that the servers claim to be."""
    timeouts = {"boot_s": boot_s, "stall_s": 30.0, "answer_s": answer_s, "canary_s": answer_s, "admission_s": 30.0}
    return factories.deployment(max_model_len=4096, timeouts=timeouts, model={"name": "llama", "weights": "unknown"})


def server_at(url: str, **more: Any) -> Server:
    """The hostile server as one that has passed its boot."""
    return Server(url, "llama", Vllm(), deployment(5.0), "url", max_model_len=4096, attached=True, **more)


def peak_mib() -> Callable[[], float]:
    """Reset this process's peak of resident memory; the returned function gives its growth since, in MiB."""
    with Path("/proc/self/clear_refs").open("w", encoding="ascii") as file:
        file.write("5")

    def high() -> float:
        with Path("/proc/self/status").open(encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

    before = high()
    return lambda: high() - before


def elapsed() -> Callable[[], float]:
    began_s = time.monotonic()
    return lambda: time.monotonic() - began_s
