"""Faults of refusals: a wrong request is not refused, or the client cannot see why."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.calls import (
    Answer,
    Call,
    Event,
    Post,
    Reply,
    RequestError,
    Silence,
    Stream,
    Usage,
    Whole,
)
from pytest_longctx.miniatures.hosted.dialects import DIALECTS, Dialect
from pytest_longctx.miniatures.hosted.refusals import REFUSALS, OverLength, error
from pytest_longctx.miniatures.hosted.tokens import encode

SORRY = "The server had an error while processing your request. Sorry about that!"


def dialect_of(call: Call) -> Dialect:
    """Return the dialect of *call*, in which a faulty error is written."""
    return DIALECTS[call.dialect]


class Answers500ForOverLength(HostedApi):
    """A prompt that is too long gets status 500."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        return Whole(500, error(SORRY, "server_error"))


class HangsForOverLength(HostedApi):
    """A prompt that is too long gets no response."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        return Silence()


class ClosesForOverLength(HostedApi):
    """A prompt that is too long closes the connection."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        raise ConnectionResetError


class Empty200ForOverLength(HostedApi):
    """A prompt that is too long gets an answer without text, tokens or finish reason."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        nothing, usage = Answer([], 0, None), Usage(over.prompt, 0)  # type: ignore[arg-type]
        if call.stream:
            return Stream(iter([Event("[DONE]")]))
        return Whole(200, self.whole(dialect_of(call), call, "empty-0", nothing, usage))


class ErrorWith200(HostedApi):
    """A prompt that is too long gets status 200 and an error as the body, or as the only event."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        body = REFUSALS[self.refusal](over)[1]
        return Stream(iter([Event(body), Event("[DONE]")])) if call.stream else Whole(200, body)


class PageForOverLength(HostedApi):
    """A prompt that is too long gets status 400 and a web page."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        return Whole(400, "<html><body><h1>Bad Request</h1></body></html>", kind="text/html")


class SaysNothingForOverLength(HostedApi):
    """A prompt that is too long gets status 413 and no body."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        return Whole(413, "")


class GoesOnAfterError(HostedApi):
    """A streamed prompt that is too long gets an error event, and then an answer."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        if not call.stream:
            return super().too_long(call, over)
        return Stream(self._both(call, over))

    def _both(self, call: Call, over: OverLength) -> Iterator[Event]:
        yield Event(REFUSALS[self.refusal](over)[1])
        answer = self.generated(replace(call, max_tokens=8), encode("after an error"), 0)
        yield from dialect_of(call).events(call, "after-error", answer, Usage(over.prompt, answer.tokens))


class StreamsNothingForOverLength(HostedApi):
    """A streamed prompt that is too long gets a stream that ends at once."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        return Stream(iter([Event("[DONE]")])) if call.stream else super().too_long(call, over)


@dataclass
class BreaksAfterOverLength(HostedApi):
    """After a prompt that was too long, every request gets status 503."""

    broken: bool = False

    def too_long(self, call: Call, over: OverLength) -> Reply:
        self.broken = True
        return super().too_long(call, over)

    def parse(self, dialect: Dialect, post: Post) -> Call:
        call = super().parse(dialect, post)
        if self.broken and not self.over_length(call, self.rendered(call.messages)):
            raise RequestError("The engine is currently overloaded, please try again later", status=503)
        return call


class AcceptsAnyKey(HostedApi):
    """The server serves requests with any key, and without one."""

    def knows(self, authorization: str) -> bool:
        return True


class AcceptsAnyModel(HostedApi):
    """The server serves its one model under every name."""

    def serves(self, model: Any) -> bool:
        return True


_KINDS: dict[str, type | tuple[type, ...]] = {
    "temperature": (int, float),
    "seed": int,
    "max_tokens": int,
    "stop": (str, list),
}


class AcceptsBadParameters(HostedApi):
    """The server ignores parameters of a wrong type."""

    def parsed(self, dialect: Dialect, body: dict[str, Any]) -> Call:
        return super().parsed(dialect, {k: v for k, v in body.items() if isinstance(v, _KINDS.get(k, object))})


class FailsOnBadParameters(HostedApi):
    """A parameter of a wrong type gets status 500."""

    def parsed(self, dialect: Dialect, body: dict[str, Any]) -> Call:
        if any(not isinstance(value, _KINDS.get(name, object)) for name, value in body.items()):
            raise RequestError(SORRY, status=500)
        return super().parsed(dialect, body)


class RepeatsTheKey(HostedApi):
    """If the key is wrong or the prompt is too long, the error message repeats the key."""

    def post(self, post: Post) -> Reply:
        reply = super().post(post)
        given = post.headers.get("authorization", "").removeprefix("Bearer ")
        if isinstance(reply, Whole) and reply.status >= 400 and isinstance(reply.body, dict):
            inner = reply.body.get("error")
            if isinstance(inner, dict):
                inner["message"] = f"{inner['message']} (key: {given})"
        return reply
