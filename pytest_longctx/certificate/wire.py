"""
One request and its answer, in any dialect, within the budget.

No redirect is followed, so a key never reaches another host. A 429, or a 503 that says when to come back, is repeated after
the time that the server told; each repetition takes its share of the budget first.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx

from pytest_longctx.certificate.budget import Budget
from pytest_longctx.certificate.dialects import Counts, Dialect, Turn
from pytest_longctx.client.answers import Deadline, PageClient, decoder, json_of, own_error, upload_s
from pytest_longctx.client.event_stream import EventParser, OversizedEvent
from pytest_longctx.errors import LongctxError
from pytest_longctx.redaction import shown

TRIES: Final = 5
"""Times that a request is sent at most, if the server limits its rate."""
_LONGEST_WAIT_S: Final = 300.0
_FIRST_WAIT_S: Final = 2.0
"""Wait after a 429 that does not tell one; doubled each time."""
_MOST_BYTES: Final = 8 * 2**20
"""Bytes of one answer that are read: answers have at most 256 tokens."""
_FRAME_TOKENS: Final = 256
"""Tokens of a chat template, reserved beside those of a text."""
_SPARE: Final = 1.02
_PAGE_S: Final = 30.0
_MOST_LOST: Final = 3
_MOST_SILENCES: Final = 4
"""Times the longest silence that a whole answer may take."""
REFUSED: Final = (400, 403, 404, 405, 409, 410, 413, 414, 422)

Ending = Literal["served", "refused", "limited", "redirected", "locked", "failed", "cut", "no answer"]
"""
``refused``: a 4xx. ``limited``: 429 until the end. ``locked``: 401. ``failed``: 5xx, or an error inside an answer with 200.
``cut``: the connection closed before the answer ended. ``no answer``: no status at all.
"""


class Limited(LongctxError):  # noqa: N818 - it states what the server does
    """The server limits its rate and serves nothing more."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request. Times are of a monotonic clock, in seconds."""

    ending: Ending
    status: int | None = None
    streamed: bool = False
    text: str = ""
    thought: str = ""
    finish: str | None = None
    counts: Counts | None = None
    logprob: float | None = None
    error: str = ""
    body: str = field(default="", repr=False)
    """The first part of the body of a refusal or a failure, masked."""
    kind: str = ""
    """Content type."""
    location: str = ""
    started_s: float = 0.0
    arrivals_s: tuple[float, ...] = ()
    """When each chunk with text arrived; empty unless streamed."""
    finished_s: float | None = None
    """When the finish reason arrived."""
    ended_s: float = 0.0
    closed: bool = False
    """Whether a stream said that it ended: ``[DONE]`` or a finish reason."""
    error_inside: bool = False
    after_error: int = 0
    """Chunks with text after an error in a stream."""
    after_done: int = 0
    """Events with text after ``[DONE]``."""
    echoes_key: bool = False
    """Whether the answer repeats the key that was sent."""
    waits_s: tuple[float, ...] = ()
    """Waits after a 429, as told or chosen."""
    prompt_characters: int = 0
    answer_tokens: int = 0
    """The most tokens that were asked for."""

    @property
    def served(self) -> bool:
        return self.ending == "served"

    @property
    def said(self) -> str:
        """Status and message of the reply in one line."""
        code = "no status" if self.status is None else f"HTTP {self.status}"
        return f"{code} {' '.join(self.error.split())[:200]}".strip()

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token of a streamed answer, also where its only token has no text; None if it is not known."""
        if self.arrivals_s:
            return self.arrivals_s[0] - self.started_s
        only = self.streamed and self.counts is not None and self.counts.answer in (0, 1)
        return self.finished_s - self.started_s if only and self.finished_s is not None else None

    @property
    def took_s(self) -> float:
        return self.ended_s - self.started_s

    @property
    def prompt(self) -> int | None:
        return self.counts.prompt if self.counts else None


@dataclass(slots=True)
class _Reading:
    """What has arrived of one answer."""

    dialect: Dialect
    words: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    before: str = ""

    def page(self, page: Any, *, streamed: bool, now_s: float) -> None:
        """Take one answer from the wire, or one event of a stream."""
        error = page.get("error") if isinstance(page, dict) else None
        if error or (isinstance(page, dict) and page.get("object") == "error"):
            self.found["error"] = _message(error or page)
            return
        word, thought = self.dialect.words(page, streamed=streamed)
        if streamed and self.dialect.cumulative:
            word, self.before = word.removeprefix(self.before), word
        if word or thought:
            if "error" in self.found:
                self.found["after_error"] = self.found.get("after_error", 0) + 1
            self.words.append(word)
            self.thoughts.append(thought)
            self.arrivals_s.append(now_s)
        for name, value in (
            ("finish", self.dialect.finished(page)),
            ("counts", self.dialect.counts(page)),
            ("logprob", self.found.get("logprob", self.dialect.first_logprob(page))),
        ):
            if value is not None:
                self.found[name] = value
                if name == "finish":
                    self.found.setdefault("finished_s", now_s)


def _message(page: Any) -> str:
    while isinstance(page, dict):
        page = page.get("error") or page.get("message") or page.get("detail") or json.dumps(page)
    return str(page)


@dataclass(slots=True)
class Wire:
    """The way to one endpoint: its address, its key, the budget, and all that came back."""

    base: str
    budget: Budget
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    local: bool = True
    deadline_s: float = 600.0
    """The longest time that is waited for a page, or for the next text of a stream, whatever else arrives meanwhile."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    replies: list[Reply] = field(default_factory=list, repr=False)
    transport: httpx.BaseTransport | None = None
    _http: PageClient | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)
    _lost: int = 0
    """Requests in a row that were limited to the end."""

    @property
    def http(self) -> PageClient:
        """
        The wire's one HTTP client; proxies from the environment are not used on loopback.

        Each request has a connection of its own: a server may close an idle one while the next request is on its way.
        """
        if self._http is None:
            self._http = PageClient(
                headers=dict(self.headers),
                timeout=httpx.Timeout(self.deadline_s, connect=30),
                follow_redirects=False,
                trust_env=not self.local and self.transport is None,
                transport=self.transport,
            )
        return self._http

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def get(self, path: str) -> httpx.Response | None:
        """Get a page of the server over the wire, which costs no tokens; None if there is none."""
        try:
            return self.http.get(self.base + path, timeout=min(_PAGE_S, self.deadline_s))
        except httpx.HTTPError as problem:
            if trouble := own_error(problem, self.base):
                raise trouble from None
            return None

    def ask(
        self,
        dialect: Dialect,
        turns: tuple[Turn, ...],
        model: str | None,
        answer_tokens: int,
        *,
        expected: int | None = None,
        key: str | None = None,
        **more: Any,
    ) -> Reply:
        """
        Send one request over the wire; repeat it after a wait if the server limits its rate.

        *expected*: prompt tokens, if known; else each byte counts as one. *key*: instead of the usual one. Raises `OverBudget`.
        """
        body = json.dumps(dialect.body(turns, model, answer_tokens, **more)).encode()
        characters = sum(len(text) for _, text in turns)
        text_bytes = sum(len(text.encode()) for _, text in turns)
        most = _FRAME_TOKENS + (text_bytes if expected is None else min(text_bytes, int(expected * _SPARE)))
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        waits: list[float] = []
        if self._lost >= _MOST_LOST:
            raise Limited(f"{self.base} limits its rate, and {self._lost} requests were not served after all waits")
        for attempt in range(TRIES):
            settle = self.budget.reserve(most, answer_tokens)
            reply, again = self._once(dialect, body, headers, streamed=bool(more.get("stream")))
            if reply.counts and reply.counts.prompt is not None:
                # What an answer left of its limit is not given back: the next one may use it all.
                settle(reply.counts.prompt, max(reply.counts.answer or 0, answer_tokens))
            # Once a request was given up, others are not repeated: the server does not want them.
            if reply.ending != "limited" or attempt == TRIES - 1 or self._lost:
                break
            waits.append(min(_LONGEST_WAIT_S, again if again is not None else _FIRST_WAIT_S * 2**attempt))
            self.sleep(waits[-1])
        reply = replace(reply, waits_s=tuple(waits), prompt_characters=characters, answer_tokens=answer_tokens)
        with self._lock:
            self.replies.append(reply)
            self._lost = self._lost + 1 if reply.ending == "limited" else 0
        return reply

    def together(self, questions: Iterable[Callable[[], Reply]]) -> list[Reply]:
        """Send all *questions* over the wire at once."""
        asked = list(questions)
        with ThreadPoolExecutor(len(asked)) as pool:
            return [each.result() for each in [pool.submit(question) for question in asked]]

    def _once(
        self, dialect: Dialect, body: bytes, headers: Mapping[str, str], *, streamed: bool
    ) -> tuple[Reply, float | None]:
        """Send the request over the wire once; also returns the seconds after which the server wants it again."""
        started_s = self.clock()
        seen: dict[str, Any] = {"started_s": started_s, "streamed": streamed}
        again: float | None = None
        reading = _Reading(dialect)
        total_s = self.deadline_s + upload_s(len(body))
        deadline = Deadline(total_s, total_s + (_MOST_SILENCES - 1) * self.deadline_s)
        request = self.http.build_request(
            "POST", self.base + dialect.path, content=body, headers=headers, extensions={"trace": deadline.trace}
        )
        try:
            with deadline, closing(self.http.send(request, stream=True)) as response:
                seen |= {
                    "status": response.status_code,
                    "kind": response.headers.get("content-type", "").partition(";")[0],
                    "location": response.headers.get("location", ""),
                }
                again = _retry_after(response.headers.get("retry-after"))
                if response.status_code == 200 and seen["kind"] == "text/event-stream":
                    seen |= self._stream(response, reading, deadline)
                else:
                    seen |= self._page(response, reading)
                if deadline.passed:  # a body without a length ends like this too
                    raise deadline.error(request)
            seen["ending"] = _ending(seen, again)
        except (httpx.HTTPError, OversizedEvent, RecursionError) as problem:
            if trouble := own_error(problem, self.base):
                raise trouble from None
            seen["ending"] = "cut" if "status" in seen else "no answer"
            said = deadline.error(request) if deadline.passed else problem
            seen["error"] = shown(f"{type(said).__name__}: {said}", self.secrets)
        return self._reply(seen, reading), again

    def _reply(self, seen: dict[str, Any], reading: _Reading) -> Reply:
        found = reading.found
        seen["ended_s"] = self.clock()
        seen["arrivals_s"] = tuple(reading.arrivals_s) if seen["streamed"] else ()
        seen["text"], seen["thought"] = "".join(reading.words), "".join(reading.thoughts)
        seen["error"] = shown(seen.get("error") or found.pop("error", ""), self.secrets)[:500]
        found.pop("error", None)
        return Reply(**{**seen, **found})

    def _stream(self, response: httpx.Response, reading: _Reading, deadline: Deadline) -> dict[str, Any]:
        parser, done, size = EventParser(), False, 0
        for piece in _decoded(response):
            size += len(piece)
            if size > _MOST_BYTES:
                return {"closed": False, "error": f"more than {_MOST_BYTES:,} bytes in one stream"}
            now_s = self.clock()
            for event in parser.feed(piece):
                if event.data.strip() == "[DONE]":
                    done = True
                    continue
                try:
                    page = json_of(event.data)
                except ValueError:
                    continue
                if done:
                    reading.found["after_done"] = reading.found.get("after_done", 0) + 1
                    continue
                if event.type == "error" and isinstance(page, dict) and "error" not in page:
                    page = {"error": page}
                before = len(reading.arrivals_s)
                reading.page(page, streamed=True, now_s=now_s)
                if len(reading.arrivals_s) > before:
                    deadline.extend()
        return {"closed": done or reading.found.get("finish") is not None, "error_inside": "error" in reading.found}

    def _page(self, response: httpx.Response, reading: _Reading) -> dict[str, Any]:
        body = bytearray()
        for piece in _decoded(response):
            body += piece
            if len(body) > _MOST_BYTES:
                break
        text = bytes(body).decode("utf-8", "replace")
        if any(secret in text for secret in self.secrets):
            reading.found["echoes_key"] = True
        try:
            page = json_of(text)
        except ValueError:
            return {"error": text[:500], "body": shown(text[:2000], self.secrets), "error_inside": True}
        if response.status_code != 200:
            return {"error": _message(page), "body": shown(text[:2000], self.secrets)}
        reading.page(page, streamed=False, now_s=self.clock())
        return {"closed": True, "error_inside": "error" in reading.found}


def _decoded(response: httpx.Response) -> Iterator[bytes]:
    """The body of an answer piece by piece, decoded also where the server did not heed that no encoding was asked for."""
    body = decoder(response)
    for raw in response.iter_raw():
        yield from body.pieces(raw)


def _ending(seen: Mapping[str, Any], again: float | None) -> Ending:
    status = int(seen["status"])
    if status == 200:
        if seen.get("error_inside"):
            return "failed"
        return "served" if seen.get("closed") else "cut"
    if status == 429 or (status == 503 and again is not None):
        return "limited"
    if 300 <= status < 400:
        return "redirected"
    if status == 401:
        return "locked"
    return "refused" if status in REFUSED else "failed"


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a ``Retry-After`` header: a number, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, (then - datetime.now(UTC)).total_seconds()) if then.tzinfo else None


def other_host(base: str, location: str) -> bool:
    """Whether the redirect to *location* leads to another host than *base*, to no address, or would drop its encryption."""
    here = urlsplit(base)
    try:
        there = urlsplit(location)
    except ValueError:
        return True
    return bool(there.netloc) and (there.hostname != here.hostname or (here.scheme, there.scheme) == ("https", "http"))
