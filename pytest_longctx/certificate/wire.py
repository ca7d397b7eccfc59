"""
Send one request in any dialect, within the budget, and read the answer.

Redirects are not followed, so a key never reaches another host. A 429, or a 503 with a time to wait, is repeated after
that time. Each repetition first reserves its share of the budget.
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
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from pytest_longctx.certificate.budget import Budget
from pytest_longctx.certificate.dialects import Dialect, Turn
from pytest_longctx.certificate.reply import Arrived, Ending, Reply, message_of
from pytest_longctx.client.event_stream import EventParser, OversizedEvent
from pytest_longctx.client.http_client import Deadline, PageClient, decoder, upload_s
from pytest_longctx.client.json_values import json_of
from pytest_longctx.errors import LongctxError
from pytest_longctx.processes.shortages import own_error
from pytest_longctx.redaction import shown

TRIES: Final = 5
"""Most times that a request is sent, if the server limits its rate."""
_LONGEST_WAIT_S: Final = 300.0
_LONGEST_GAP_S: Final = 5.0
"""
Longest wait that counts as the interval between requests. A longer one is a limit of tokens or of a day, and is kept
each time.
"""
_DATE_S: Final = 1.0
"""Rounding of a date in ``Retry-After``, which has whole seconds."""
_FIRST_WAIT_S: Final = 2.0
"""First wait after a 429 without a time to wait; doubled each time."""
_MOST_BYTES: Final = 8 * 2**20
"""Most bytes read of one answer. Answers have at most 256 tokens."""
_FRAME_TOKENS: Final = 256
"""Tokens reserved for a chat template, in addition to the tokens of the text."""
_SPARE: Final = 1.02
_PAGE_S: Final = 30.0
_MOST_LOST: Final = 3
_MOST_SILENCES: Final = 4
"""Longest time of a whole answer, as a multiple of the longest pause."""
REFUSED: Final = (400, 403, 404, 405, 409, 410, 413, 414, 422)


class Limited(LongctxError):  # noqa: N818 - it states what the server does
    """The server limits the rate of requests and serves no more of them."""


@dataclass(slots=True)
class Wire:
    """The connection to one endpoint: its address, its key, the budget, and all answers."""

    base: str
    budget: Budget
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    local: bool = True
    deadline_s: float = 600.0
    """Longest wait for a page, or for the next text of a stream, even if other data arrives."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    replies: list[Reply] = field(default_factory=list, repr=False)
    transport: httpx.BaseTransport | None = None
    _http: PageClient | None = field(default=None, repr=False)
    gap_s: float = 0.0
    """Seconds between two requests that this server needs, learned from its refusals; 0 if it has not limited the rate."""
    _lock: Lock = field(default_factory=Lock, repr=False)
    _patience: Lock = field(default_factory=Lock, repr=False)
    """Held by the one request that waits to be repeated. Several at once would limit each other."""
    _next_s: float = 0.0
    """Earliest start of the next request, by that interval."""
    _taken_s: float | None = None
    """Start of the latest request that was not limited."""
    _failed: bool = False
    """
    Whether the latest request was not served. A gateway that pauses for seconds after that does not limit the rate.
    """
    _lost: int = 0
    """Number of requests in a row that failed by the rate limit."""

    @property
    def http(self) -> PageClient:
        """
        The only HTTP client, which uses no proxies of the environment on loopback.

        Each request opens a new connection, because a server may close an idle one while the next request is sent.
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
        """Return a page of the server that costs no tokens; None if the server has no such page."""
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
        Send one request and return the answer. If the server limits its rate, wait and repeat the request.

        *expected*: prompt tokens, if known. If not, each byte counts as one token. *key*: replaces the usual key. Raises
        `OverBudget`.
        """
        answer_tokens = max(answer_tokens, dialect.least_answer)
        body = json.dumps(dialect.body(turns, model, answer_tokens, **more)).encode()
        characters = sum(len(text) for _, text in turns)
        text_bytes = sum(len(text.encode()) for _, text in turns)
        most = _FRAME_TOKENS + (text_bytes if expected is None else min(text_bytes, int(expected * _SPARE)))
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        if self._lost >= _MOST_LOST:
            raise Limited(f"{self.base} is rate-limited: {self._lost} requests were not served after all waits")

        def once() -> tuple[Reply, float | None]:
            settle = self.budget.reserve(most, answer_tokens)
            reply, again = self._once(dialect, body, headers, answer_tokens, streamed=bool(more.get("stream")))
            if reply.counts and reply.counts.prompt is not None:
                # What an answer left of its limit is not given back: the next one may use it all.
                settle(reply.counts.prompt, max(reply.counts.answer or 0, answer_tokens))
            elif reply.hung_up:
                settle(most, max(len(reply.arrivals_s), answer_tokens))  # what came above the limit is paid too
            return reply, again

        self._keep_gap()
        reply, waits = self._patiently(once)
        reply = replace(reply, waits_s=tuple(waits), prompt_characters=characters, answer_tokens=answer_tokens)
        with self._lock:
            self.replies.append(reply)
            self._lost = self._lost + 1 if reply.ending == "limited" else 0
            self._failed = not reply.served
        return reply

    def _keep_gap(self) -> None:
        """Wait until the interval between two requests has passed, as learned from this server."""
        with self._lock:
            wait_s = max(0.0, self._next_s - self.clock()) if self.gap_s else 0.0
            self._next_s = max(self._next_s, self.clock()) + self.gap_s
        if wait_s:
            self.sleep(wait_s)

    def _patiently(self, once: Callable[[], tuple[Reply, float | None]]) -> tuple[Reply, list[float]]:
        """
        Send a request with *once*, again after each wait that the server requires. Return the answer and the waits in
        seconds.
        """
        reply, again = once()
        if reply.ending != "limited":
            self._taken_s = reply.started_s
            return reply, []
        waits: list[float] = []
        after_failure = self._failed
        due_s = self.clock() + self._wait_s(again, 0)
        with self._patience:
            for attempt in range(1, TRIES):
                # Once a request was given up, others are not repeated: the server does not want them.
                if self._lost:
                    break
                waits.append(max(0.0, due_s - self.clock()))
                self.sleep(waits[-1])
                reply, again = once()
                if reply.ending != "limited":
                    if not after_failure:
                        self._learn_gap(reply.started_s, sum(waits))
                    break
                due_s = self.clock() + self._wait_s(again, attempt)
        return reply, waits

    @staticmethod
    def _wait_s(again: float | None, attempt: int) -> float:
        """
        Return the seconds to wait after a rate-limited *attempt*: as the server states, or longer if that was not
        enough before.
        """
        least_s = 2.0 ** (attempt - 1) if attempt else 0.0
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt if again is None else max(again, least_s))

    def _learn_gap(self, started_s: float, waited_s: float) -> None:
        """Keep the interval of the last two requests between all further requests, so that the server refuses none."""
        with self._lock:
            between_s = waited_s if self._taken_s is None else started_s - self._taken_s
            gap_s = between_s if between_s <= _LONGEST_GAP_S else waited_s
            if gap_s <= _LONGEST_GAP_S:
                self.gap_s = max(self.gap_s, gap_s)
                self._next_s = started_s + self.gap_s
            self._taken_s = started_s

    def together(self, questions: Iterable[Callable[[], Reply]]) -> list[Reply]:
        """Send all *questions* at once, and return their answers."""
        asked = list(questions)
        with ThreadPoolExecutor(len(asked)) as pool:
            return [each.result() for each in [pool.submit(question) for question in asked]]

    def _once(
        self, dialect: Dialect, body: bytes, headers: Mapping[str, str], answer_tokens: int, *, streamed: bool
    ) -> tuple[Reply, float | None]:
        """
        Send the request once. Return the answer, and the seconds after which the server accepts the request again (None
        if not limited).
        """
        started_s = self.clock()
        seen: dict[str, Any] = {"started_s": started_s, "streamed": streamed}
        again: float | None = None
        arrived = Arrived(dialect, answer_tokens)
        total_s = self.deadline_s + upload_s(len(body))
        deadline = Deadline(total_s, total_s + (_MOST_SILENCES - 1) * self.deadline_s)
        request = self.http.build_request(
            "POST", self.base + dialect.path, content=body, headers=headers, extensions={"trace": deadline.trace}
        )
        try:
            with deadline, closing(self.http.send(request, stream=True)) as response:
                seen |= {
                    "status": response.status_code,
                    "kind": response.headers.get("content-type", "").partition(";")[0].strip().lower(),
                    "location": response.headers.get("location", ""),
                }
                again = _retry_after(response.headers.get("retry-after"))
                seen["told_wait"] = again is not None
                if response.status_code == 200 and _is_stream(seen["kind"], asked=streamed):
                    seen |= self._stream(response, arrived, deadline)
                else:
                    seen |= self._page(response, arrived)
                if deadline.passed:  # a body without a length ends like this too
                    raise deadline.error(request)
            seen["ending"] = _ending(seen, again)
        except (httpx.HTTPError, OversizedEvent, RecursionError) as problem:
            if trouble := own_error(problem, self.base):
                raise trouble from None
            seen["ending"] = "cut" if "status" in seen else "no answer"
            said = deadline.error(request) if deadline.passed else problem
            seen["error"] = shown(f"{type(said).__name__}: {said}", self.secrets)
        return self._reply(seen, arrived), again

    def _reply(self, seen: dict[str, Any], arrived: Arrived) -> Reply:
        found = arrived.found
        seen["ended_s"] = self.clock()
        seen["arrivals_s"] = tuple(arrived.arrivals_s) if seen["streamed"] else ()
        seen["text"], seen["thought"] = "".join(arrived.words), "".join(arrived.thoughts)
        seen["error"] = shown(seen.get("error") or found.pop("error", ""), self.secrets)[:500]
        found.pop("error", None)
        return Reply(**{**seen, **found})

    def _stream(self, response: httpx.Response, arrived: Arrived, deadline: Deadline) -> dict[str, Any]:
        parser, done, size = EventParser(), False, 0
        for piece in _decoded(response):
            size += len(piece)
            if size > _MOST_BYTES:
                return {"closed": False, "error": f"more than {_MOST_BYTES:,} bytes in one stream"}
            now_s = self.clock()
            for event in parser.feed(piece):
                arrived.found["events"] = arrived.found.get("events", 0) + 1
                if event.data.strip() == "[DONE]":
                    done = True
                    continue
                try:
                    page = json_of(event.data)
                except ValueError:
                    continue
                if done:
                    arrived.found["after_done"] = arrived.found.get("after_done", 0) + 1
                    continue
                if event.type == "error" and isinstance(page, dict) and "error" not in page:
                    page = {"error": page}
                before = len(arrived.arrivals_s)
                arrived.page(page, streamed=True, now_s=now_s)
                if len(arrived.arrivals_s) > before:
                    deadline.extend()
                if arrived.endless:
                    return {"closed": True, "hung_up": True}
        return {"closed": done or arrived.found.get("finish") is not None, "error_inside": "error" in arrived.found}

    def _page(self, response: httpx.Response, arrived: Arrived) -> dict[str, Any]:
        body = bytearray()
        for piece in _decoded(response):
            body += piece
            if len(body) > _MOST_BYTES:
                break
        text = bytes(body).decode("utf-8", "replace")
        if any(secret in text for secret in self.secrets):
            arrived.found["echoes_key"] = True
        try:
            page = json_of(text)
        except ValueError:
            return {"error": text[:500], "body": shown(text[:2000], self.secrets), "error_inside": True}
        if response.status_code != 200:
            return {"error": message_of(page), "body": shown(text[:2000], self.secrets)}
        arrived.page(page, streamed=False, now_s=self.clock())
        return {"closed": True, "error_inside": "error" in arrived.found}


def _is_stream(kind: str, *, asked: bool) -> bool:
    """
    Return whether an answer with the content type *kind* is a stream. Some servers state a content type that is not one
    of streams.
    """
    return kind == "text/event-stream" or (asked and kind in ("", "text/plain", "application/octet-stream"))


def _decoded(response: httpx.Response) -> Iterator[bytes]:
    """Yield the body in decoded pieces, even though the request asked for no encoding."""
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
    """Return the seconds to wait by a ``Retry-After`` header, which is a number or a date; None without a valid header."""
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
    return max(0.0, (then - datetime.now(UTC)).total_seconds() + _DATE_S) if then.tzinfo else None


def other_host(base: str, location: str) -> bool:
    """Return whether the redirect to *location* goes to another host than *base*, has no address, or drops encryption."""
    here = urlsplit(base)
    try:
        there = urlsplit(location)
    except ValueError:
        return True
    return bool(there.netloc) and (there.hostname != here.hostname or (here.scheme, there.scheme) == ("https", "http"))
