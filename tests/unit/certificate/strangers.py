"""Correct hosted APIs with a way of their own, as providers have: each differs from the honest miniature in one thing."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.calls import Answer, Call, Event, Post, RequestError, Stream, Usage, Whole
from pytest_longctx.miniatures.hosted.dialects import Dialect
from pytest_longctx.miniatures.hosted.faults.answers import IgnoresMaxCompletionTokens

REASONING = "Let me see what is asked here and where it stands in the text. "


class KnowsOnlyMaxTokens(IgnoresMaxCompletionTokens):
    """An answer without ``max_tokens`` has no end, as that of ``transformers serve`` has none for minutes."""

    written = 0

    def generated(self, call: Call, kept: Any, cached: int) -> Answer:
        if call.max_tokens is not None:
            return super().generated(call, kept, cached)
        return Answer([" more"] * 200_000, 200_000, "stop")

    def paced(self, events: Iterator[Event], uncached: int) -> Iterator[Event]:
        for event in events:
            self.written += 1
            yield event


@dataclass
class Unhurried(HostedApi):
    """A server with a clock that a waiting client moves on."""

    every_s: float = 1.0
    tells: bool = True
    passed_s: float = 0.0
    limited: int = 0
    _free_s: float = field(default=0.0)

    def now_s(self) -> float:
        return time.monotonic() + self.passed_s

    def sleep(self, wait_s: float) -> None:
        with self.lock:
            self.passed_s += wait_s

    def too_early(self, wait_s: float) -> RequestError:
        """The refusal of a request that comes *wait_s* too early."""
        with self.lock:
            self.limited += 1
        return RequestError("slow down", status=429, headers={"Retry-After": f"{wait_s:.3f}"} if self.tells else {})


class OneAtATime(Unhurried):
    """One request in *every_s* seconds."""

    def admit(self, post: Post) -> None:
        with self.lock:
            wait_s = self._free_s - self.now_s()
            if wait_s <= 0:
                self._free_s = self.now_s() + self.every_s
        if wait_s > 0:
            raise self.too_early(wait_s)
        super().admit(post)


class PausesAfterMissing(Unhurried):
    """Serves nothing for *every_s* seconds after it was asked at a path that it has not, as LiteLLM before one server."""

    def route(self, path: str) -> Dialect:
        if (wait_s := self._free_s - self.now_s()) > 0:
            raise self.too_early(wait_s)
        try:
            return super().route(path)
        except RequestError:
            self._free_s = self.now_s() + self.every_s
            raise


class CountsInStreamsOnly(HostedApi):
    """Usage is null without a stream."""

    def usage(self, call: Call, *more: Any) -> Usage | None:
        return super().usage(call, *more) if call.stream else None


class CountsNothing(HostedApi):
    """No answer has usage."""

    def usage(self, *_: Any) -> Usage | None:
        return None


class WantsSixteen(HostedApi):
    """An answer of fewer than 16 tokens is refused."""

    def parse(self, dialect: Dialect, post: Post) -> Call:
        call = super().parse(dialect, post)
        if call.max_tokens is not None and call.max_tokens < 16:
            raise RequestError("max_tokens must be at least 16")
        return call


class RefusesVaguely(HostedApi):
    """``max_tokens`` and ``temperature`` are not known, and the refusal does not say so."""

    def parse(self, dialect: Dialect, post: Post) -> Call:
        call = super().parse(dialect, post)
        if call.named & {"max_tokens", "temperature"}:
            raise RequestError("invalid request")
        return call


class RefusesTemperature(HostedApi):
    """``temperature`` is not known."""

    def parse(self, dialect: Dialect, post: Post) -> Call:
        call = super().parse(dialect, post)
        if "temperature" in call.named:
            raise RequestError("Unsupported parameter: 'temperature'", "temperature")
        return call


class HasNoVersion(HostedApi):
    """The API stands at ``/chat/completions``, and its list of models at ``/models``."""

    def route(self, path: str) -> Dialect:
        if path.startswith("/v1"):
            raise RequestError("no such route", status=404)
        return super().route(f"/v1{path}")

    def get(self, post: Post) -> Any:
        if post.path.startswith("/v1"):
            return Whole(404, "")
        return super().get(replace(post, path=f"/v1{post.path}"))


@dataclass
class Reasons(HostedApi):
    """It writes its reasoning first, within the limit of the answer: longer before longer texts."""

    hidden: bool = False
    least_tokens: int = 210
    share: float = 0.0
    """Reasoning tokens for each token of the prompt."""
    in_total_only: bool = False
    """Whether the count of the answer leaves reasoning out, and the total has it, as Google's has."""

    def generated(self, call: Call, kept: Any, cached: int) -> Answer:
        answer = super().generated(call, kept, cached)
        most = self.maximum(call, kept)
        self.thought = min(most, self.least_tokens + int(self.share * len(kept)))
        parts = answer.parts[: most - self.thought]
        cut = self.thought + answer.tokens > most
        return Answer(parts, len(parts) + self.thought, "length" if cut else answer.finish)

    def usage(self, call: Call, sent: Any, kept: Any, answer: Answer, cached: int) -> Usage | None:
        counted = answer.tokens - (self.thought if self.in_total_only else 0)
        return Usage(len(sent), counted, None, len(sent) + answer.tokens)

    def whole(self, *asked: Any) -> Any:
        body = super().whole(*asked)
        if not self.hidden:
            body["choices"][0]["message"]["reasoning_content"] = REASONING
        return body


class AnswersInParts(HostedApi):
    """The content of a message is a list of parts, as Mistral's has."""

    def whole(self, *asked: Any) -> Any:
        body = super().whole(*asked)
        message = body["choices"][0]["message"]
        message["content"] = [{"type": "text", "text": message["content"]}]
        return body


class NamesStreamsPlain(HostedApi):
    """Streams have the content type of plain text."""

    def complete(self, dialect: Dialect, call: Call) -> Any:
        reply = super().complete(dialect, call)
        if isinstance(reply, Stream):
            reply.headers["Content-Type"] = "text/plain"
        return reply


class IgnoresStream(HostedApi):
    """A stream is answered as a whole."""

    def complete(self, dialect: Dialect, call: Call) -> Any:
        return super().complete(dialect, replace(call, stream=False))


class EndsAfterEight(HostedApi):
    """Every answer ends after eight tokens, as a cheap plan may have it."""

    def maximum(self, call: Call, kept: Any) -> int:
        return min(8, super().maximum(call, kept))


class LeavesTheStartOut(HostedApi):
    """Usage leaves out the token at the start of a text, which the limit counts."""

    def usage(self, call: Call, sent: Any, kept: Any, answer: Answer, cached: int) -> Usage | None:
        return Usage(len(sent) - 1, answer.tokens, None)


class FallsSilent(HostedApi):
    """The model answers long texts with nothing, as a weak one may. The server reads them as a whole."""

    def generated(self, call: Call, kept: Any, cached: int) -> Answer:
        answer = super().generated(call, kept, cached)
        return Answer(["unknown"], 1, "stop") if len(kept) > 3000 else answer
