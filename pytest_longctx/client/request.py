"""
Send one prompt, stream the completion and record the time of each event.

A request is never retried: a retry would send up to ten million tokens again and hide the first failure. The given
deadline, counted from the first byte, is the only timeout.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx

from pytest_longctx.backends import Backend
from pytest_longctx.client import event_loop
from pytest_longctx.client.answer_tokens import Token, tokens_of
from pytest_longctx.client.event_stream import Event, EventParser
from pytest_longctx.client.exchange import Ending, Exchange, Ledger, Refusal, Usage
from pytest_longctx.client.http_client import PageClient, decoder, error_text
from pytest_longctx.client.json_values import count_of, json_of
from pytest_longctx.client.server import Answer, Server, unaskable
from pytest_longctx.client.watchdog import MetricsPoller, Watchdog, open_http, poll_metrics
from pytest_longctx.errors import PromptError
from pytest_longctx.processes.progress import ProgressCallback, no_progress
from pytest_longctx.processes.shortages import own_error
from pytest_longctx.prompts import Sendable
from pytest_longctx.redaction import shown

_KEPT_TEXT: Final = 2000
_CHUNKS_PER_TOKEN: Final = 16
_SPARE_CHUNKS: Final = 1000
"""
Chunks allowed in addition to `_CHUNKS_PER_TOKEN` per requested token. A server that ignores max_tokens would never
stop.
"""
_STREAM_TYPES: Final = ("message", "error", "completion", "completion.chunk", "chat.completion.chunk")
"""Types of events that carry the answer. Gateways send others, such as ``ping``, whose data may not be JSON."""
_CONTENT: Final = ("reasoning_content", "reasoning", "content")
"""Fields of a chat chunk that count as content. A first reasoning token is a first token."""
_JSON: Final = {"Content-Type": "application/json"}
_FIRST_BYTE: Final = "http11.send_request_headers.started"
"""httpcore's event name for the first byte. A proxy tunnel emits it twice; the last one counts."""
_LAST_WORDS_S: Final = 1.0
"""Seconds to wait for the error of an engine whose health check reports it dead, because the error may explain the death."""

Clock = Callable[[], float]


@dataclass(slots=True)
class StreamedRequest:
    """One request in flight, and the observations so far."""

    server: Server
    prompt: Sendable
    output_tokens: int
    deadline_s: float
    watch: ProgressCallback
    clock: Clock = time.monotonic
    gauges: MetricsPoller | None = None
    """
    The poller that all requests of a load share; None if no other request is in flight, so the counters belong to this
    one.
    """
    traced: bool = False
    """Whether to request the log-probabilities of the answer."""
    started_s: float = 0.0
    uploaded_s: float | None = None
    answering: bool = False
    arrivals_s: list[float] = field(default_factory=list)
    finished_s: float | None = None
    """Arrival time of the chunk without text that ended the answer."""
    words: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    usage: Usage | None = None
    refusal: Refusal | None = None
    detail: str = ""
    watchdog: Watchdog | None = None

    async def run(self) -> Exchange:
        """Send the request, poll the server's metrics until the answer ends, and return the exchange."""
        async with (
            open_http(self.server, None) as http,
            nullcontext(self.gauges) if self.gauges else poll_metrics(self.server) as gauges,
        ):
            watchdog = self.watchdog = Watchdog(self.server, gauges, prompt_tokens=len(self.prompt))
            if self.gauges is None:
                await watchdog.note_counters()
            self.started_s = self.clock()
            watchdog.begin()
            ending, ended_s = await self._race(http, watchdog)
            if ending not in ("complete", "refused", "not asked"):
                self.detail = f"{self.detail}; {await watchdog.health_label()}"
            ledger = await self._ledger(watchdog) if self.gauges is None and ending == "complete" else None
        return Exchange(
            sent_tokens=len(self.prompt),
            asked_tokens=self.output_tokens,
            started_s=self.started_s,
            ending=ending,
            ended_s=ended_s,
            uploaded_s=self.uploaded_s,
            arrivals_s=self._arrived(),
            usage=self._counted(ledger),
            ledger=ledger,
            refusal=self.refusal,
            waited_unscheduled_s=watchdog.admission.waited_s,
            health=watchdog.health,
            kv_usage_peak=watchdog.kv_usage_peak if self.gauges is None else None,
            text="".join(self.words)[:_KEPT_TEXT],
            tokens=tuple(self.tokens),
            detail=shown(self.detail, self.server.secrets),
        )

    def _arrived(self) -> tuple[float, ...]:
        """
        Return the arrival times of chunks with content. For a single token without text, return the arrival of the last
        chunk.
        """
        single = self.usage is not None and self.usage.completion_tokens == 1
        if self.arrivals_s or self.finished_s is None or not single:
            return tuple(self.arrivals_s)
        return (self.finished_s,)

    async def _ledger(self, watchdog: Watchdog) -> Ledger | None:
        # Wait for the requested number, not the one in usage: a server that overstates its answer never reaches that.
        counted = (self.usage and self.usage.completion_tokens) or 0
        return await watchdog.ledger(min(self.output_tokens, counted))

    def _counted(self, ledger: Ledger | None) -> Usage:
        """Return the counts of the usage record. The server's counter supplies missing cached tokens."""
        usage = self.usage or Usage()
        if self.usage is not None and usage.cached_tokens is None and ledger is not None:
            usage = replace(usage, cached_tokens=ledger.cached_tokens)
        return by_role(usage, ledger) if self.server.receives_kv else usage

    def _phase(self) -> str:
        if self.arrivals_s:
            return "answering"
        return "uploading" if self.uploaded_s is None else "waiting"

    async def _race(self, http: httpx.AsyncClient, watchdog: Watchdog) -> tuple[Ending, float]:
        """Wait for the answer's end, the deadline or the watchdog. Return the ending and its time."""
        answer = asyncio.create_task(self._stream(http))
        what = f"{len(self.prompt):,} tokens to {self.server.deployment.name}"
        watching = asyncio.create_task(watchdog.watch(what, self._phase, self.deadline_s, self.watch))
        try:
            await asyncio.wait({answer, watching}, timeout=self.deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and watching.result()[0] == "engine dead":
                await asyncio.wait({answer}, timeout=_LAST_WORDS_S)
            ended_s = self.clock()
            if answer.done():
                return answer.result(), ended_s
            if watching.done():
                ending, self.detail = watching.result()
                return ending, ended_s
            ending, self.detail = watchdog.time_is_up(self.deadline_s, self.arrivals_s, self.output_tokens)
            return ending, ended_s
        finally:
            for task in (answer, watching):
                task.cancel()
            await asyncio.gather(answer, watching, return_exceptions=True)

    async def _stream(self, http: httpx.AsyncClient) -> Ending:
        try:
            return await self._exchange(http)
        except httpx.DecodingError as problem:
            self.detail = str(problem)
            return "malformed"
        except (MemoryError, OSError, RuntimeError, httpx.HTTPError) as problem:
            if (ours := own_error(problem, self.server.url)) is not None:
                raise ours from None
            if not isinstance(problem, httpx.HTTPError):
                raise
            self.detail = f"{type(problem).__name__}: {problem}".rstrip(": ")
            return "died mid-stream" if self.answering else "disconnected"

    async def _exchange(self, http: httpx.AsyncClient) -> Ending:
        """Send the request, read the answer and return the ending. Raises the errors of httpx."""
        head, tail = self._body()
        length = str(len(head) + self.prompt.json_bytes + len(tail))
        async with http.stream(
            "POST",
            self.prompt.path,
            content=self._upload(head, tail),
            headers={**_JSON, "Content-Length": length},
            extensions={"trace": self._note},
        ) as response:
            if response.status_code != 200:
                text = await error_text(response)
                self.refusal = Refusal.read(response.status_code, text, self.server.secrets)
                if self._not_asked(response, text):
                    return "not asked"
                return "refused" if response.status_code < 500 else "server error"
            if "text/event-stream" not in response.headers.get("content-type", ""):
                text = await error_text(response)
                return "not asked" if self._not_asked(response, text) else "malformed"
            self.answering = True
            return await self._read(response)

    def _not_asked(self, response: httpx.Response, text: str) -> bool:
        """Return whether *response* does not come from an engine. *detail* then has the reason."""
        server, headers = self.server, response.headers
        answer = Answer(
            f"POST {self.prompt.path}",
            response.status_code,
            text,
            headers.get("content-type", ""),
            headers.get("location", ""),
            streamed=True,
        )
        keyed, attached = "Authorization" in server.headers, server.attached
        direct = server.local and not attached  # a tunnel or a proxy may also listen on loopback
        found = unaskable(answer, local=direct, attached=attached, keyed=keyed, secrets=server.secrets)
        self.detail = str(found) if found else self.detail
        return found is not None

    def _body(self) -> tuple[bytes, bytes]:
        """Return the request body in two parts: before and after the token ids of the prompt."""
        rest = {
            "max_tokens": self.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **decoding(self.server.backend),
            **(self.server.backend.tracing if self.traced else {}),
            **self.server.body,
        }
        head = f'{json.dumps({"model": self.server.model})[:-1]}, "{self.prompt.member}": '
        return head.encode(), b", " + json.dumps(rest)[1:].encode()

    async def _note(self, event: str, _about: Mapping[str, Any]) -> None:
        # Among fifty requests that start at once, one may wait 0.1 s before it connects.
        if event == _FIRST_BYTE:
            self.started_s = self.clock()

    async def _upload(self, head: bytes, tail: bytes) -> AsyncIterator[bytes]:
        yield head
        for chunk in self.prompt.json_chunks():
            yield chunk
            if self.watchdog is not None:
                self.watchdog.took()
        yield tail
        self.uploaded_s = self.clock()

    async def _read(self, response: httpx.Response) -> Ending:
        parser, decoded = EventParser(), decoder(response)
        try:
            async for raw in response.aiter_raw():
                # Stamped on arrival, so that parsing one event does not delay the next stamp.
                woke_s = event_loop.woke_s()
                came_s = self.clock() if woke_s is None else woke_s
                for piece in decoded.pieces(raw):
                    for event in parser.feed(piece):
                        if (ending := self._ends_with(event, came_s)) is not None:
                            return ending
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as problem:
            self.detail = f"the response is not a completion event stream: {problem}"
            return "malformed"
        self.detail = "the stream ended without its closing [DONE]"
        return "died mid-stream"

    def _ends_with(self, event: Event, came_s: float) -> Ending | None:
        """
        Process one event. Return the ending if the event ends the answer, else None. Raises `ValueError` for data that
        no completion contains.
        """
        if event.data.strip() == "[DONE]":
            return self._at_the_end()
        if event.type not in _STREAM_TYPES:
            return None
        self._take(json_of(event.data), came_s)
        if self.refusal is not None:
            # vLLM with a dead engine ends a 200 stream with an error event of status 500.
            return "refused" if self.refusal.status < 500 else "server error"
        most = _CHUNKS_PER_TOKEN * self.output_tokens + _SPARE_CHUNKS
        if len(self.arrivals_s) > most:
            raise ValueError(
                f"the answer has more than {most:,} chunks with content; {self.output_tokens:,} tokens were requested"
            )
        return None

    def _at_the_end(self) -> Ending:
        """Return the ending of a closed answer. vLLM closes an aborted request with a count of 0, without an error."""
        empty = self.usage is not None and self.usage.completion_tokens == 0 and not self.arrivals_s
        if empty and self.finished_s is None and not self.detail:
            self.detail = "the server ended the answer without a token, and without a reason (finish_reason)"
        return "server error" if self.detail else "complete"

    def _take(self, event: Mapping[str, Any], now: float) -> None:
        if error := event.get("error"):
            status = error.get("code") if isinstance(error, dict) else None
            known = status if isinstance(status, int) and 400 <= status < 600 else 200
            self.refusal = Refusal.read(known, json.dumps(event), self.server.secrets, in_stream=True)
            return
        for choice in event.get("choices") or ():
            self.tokens += tokens_of(choice) if self.traced else ()
            if choice.get("finish_reason") == "abort":
                self.detail = 'the server aborted the request (finish_reason "abort"), which this client did not'
            if (text := _said(choice)) is not None:
                self.arrivals_s.append(now)
                if self.watchdog is not None:
                    self.watchdog.came()
                self.words += [text] if len(self.words) < _KEPT_TEXT else []
            elif choice.get("finish_reason") is not None:
                self.finished_s = now
        if usage := event.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            cached = details.get("cached_tokens", self.server.silently_cached)
            counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
            self.usage = Usage(*map(count_of, counts))


def by_role(usage: Usage, ledger: Ledger | None) -> Usage:
    """
    Return the *usage* of a decode role without the tokens that a prefill role sent, which count as cached there.

    vLLM adds up both in ``cached_tokens``. The tokens from a cache are unknown unless the counters separate them.
    """
    local = None if ledger is None or ledger.external_tokens is None else ledger.local_tokens
    received = usage.cached_tokens if ledger is None or ledger.external_tokens is None else ledger.external_tokens
    return replace(usage, cached_tokens=local, transferred_tokens=received)


def decoding(backend: Backend) -> dict[str, Any]:
    """Return the sampling parameters of every request."""
    return {"temperature": 0, **backend.body}


def _said(choice: Mapping[str, Any]) -> str | None:
    """
    Return the text of a streamed chunk, reasoning included; None for a chunk without content (start or end of a chat).

    A token may have no text of its own: it may be part of a character, or an id that the tokenizer lacks.
    """
    delta = choice.get("delta")
    parts = [choice.get("text")] if delta is None else [delta.get(name) for name in _CONTENT]
    text = "".join(part for part in parts if part)
    opens = delta is not None and "role" in delta
    nothing = all(part is None for part in parts) or opens or choice.get("finish_reason") is not None
    return text or (None if nothing else "")


def open_client(server: Server, timeout_s: float) -> PageClient:
    """Return a synchronous HTTP client for short requests to *server*, without proxies on loopback."""
    return PageClient(
        base_url=server.url,
        headers=dict(server.headers),
        timeout=timeout_s,
        trust_env=not server.local,
        verify=server.secure,
    )


def ask(
    server: Server,
    prompt: Sendable,
    output_tokens: int,
    *,
    deadline_s: float | None = None,
    watch: ProgressCallback = no_progress,
    clock: Clock = time.monotonic,
    traced: bool = False,
) -> Exchange:
    """
    Send *prompt*, request *output_tokens* tokens and return the exchange, also of a refusal or a hang.

    *traced*: request the log-probability of each token, if the backend can return it. *deadline_s* counts from the first
    byte. By default it follows from the deployment's timeouts. Raises `PromptError` for a wrong argument, and `LaunchError`
    if this process lacks a resource, such as file descriptors.
    """
    if not hasattr(prompt, "json_chunks") or output_tokens < 1:
        raise PromptError(
            f"ask(prompt(N), M) needs a prompt and at least one output token; got {prompt!r:.80}, {output_tokens!r}"
        )
    if deadline_s is None:
        deadline_s = server.deployment.timeouts.request_s(len(prompt), output_tokens)
    talk = StreamedRequest(server, prompt, output_tokens, deadline_s, watch, clock, traced=traced)
    try:
        return _run(talk, clock)
    except (MemoryError, OSError, RuntimeError) as problem:
        raise own_error(problem, server.url) or problem from None


def _run(talk: StreamedRequest, clock: Clock) -> Exchange:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # the usual case; Ctrl-C ends the request at once, whereas it would wait for a thread
        return event_loop.run(talk.run(), clock)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(event_loop.run, talk.run(), clock).result()
