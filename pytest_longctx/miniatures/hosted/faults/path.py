"""Faults of the path between client and engine: proxies, load balancers, limits of bodies and of waiting times."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.calls import Answer, Call, Event, Post, Reply, RequestError, Stream, Usage, Whole
from pytest_longctx.miniatures.hosted.dialects import Dialect
from pytest_longctx.miniatures.hosted.latency import Latency

BODY_LIMIT_BYTES = 1 << 15


def page(status: int, title: str) -> Whole:
    """Return the error page of nginx, as a proxy on the path sends it."""
    rows = f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}</h1></center>\r\n"
    return Whole(status, f"{rows}<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n", kind="text/html")


class RefusesBodiesOver32KiB(HostedApi):
    """A body of more than 32 KiB gets status 413 and nginx's page."""

    def post(self, post: Post) -> Reply:
        if len(post.body) > BODY_LIMIT_BYTES:
            self.record(post, None)
            return page(413, "Request Entity Too Large")
        return super().post(post)


class CutsBodiesAt32KiB(HostedApi):
    """A body is read only up to 32 KiB. The rest is then no JSON."""

    def post(self, post: Post) -> Reply:
        return super().post(replace(post, body=post.body[:BODY_LIMIT_BYTES]))


@dataclass
class BuffersStreams(HostedApi):
    """
    All events of a stream arrive after the last event. The default speed of 160 tokens a second makes the delay
    visible.
    """

    def __post_init__(self) -> None:
        self.latency.decode_tokens_per_s = self.latency.decode_tokens_per_s or 160.0

    def complete(self, dialect: Dialect, call: Call) -> Reply:
        reply = super().complete(dialect, call)
        if isinstance(reply, Stream):
            reply.buffered = True
        return reply


@dataclass
class ReadsTwice(HostedApi):
    """Every prompt is read twice, on two replicas, as with a proxy that repeats requests. ``/metrics`` shows it."""

    def __post_init__(self) -> None:
        self.pages = True

    def complete(self, dialect: Dialect, call: Call) -> Reply:
        first = super().complete(dialect, replace(call, stream=False, salt=f"{call.salt}/another replica"))
        return super().complete(dialect, call) if isinstance(first, Whole) and first.status == 200 else first


@dataclass
class StormsOf429(HostedApi):
    """After twelve requests, all get status 429, without ``Retry-After`` and without end."""

    left: int = 12

    def admit(self, post: Post) -> None:
        super().admit(post)
        with self.lock:
            self.left -= 1
        if self.left < 0:
            raise RequestError("Too many requests.", status=429, code="rate_limit_exceeded")


@dataclass
class Elsewhere:
    """A second host, which serves a miniature and keeps the keys that it receives."""

    api: HostedApi
    keys: list[str] = field(default_factory=list)

    @property
    def latency(self) -> Latency:
        """Delays of the second host, to which the path redirects."""
        return self.api.latency

    def get(self, post: Post) -> Reply:
        """Return the reply of the second host, to which the path redirects, to a GET request."""
        self._note(post)
        return self.api.get(post)

    def post(self, post: Post) -> Reply:
        """Return the reply of the second host, to which the path redirects, to a POST request."""
        self._note(post)
        return self.api.post(post)

    def _note(self, post: Post) -> None:
        if key := post.headers.get("authorization"):
            self.keys.append(key)


@dataclass
class RedirectsElsewhere(HostedApi):
    """Completions get status 307 with another host in ``Location``. A client that follows the redirect discloses its key."""

    elsewhere: str = "http://localhost:9"
    """URL of the other host, which serves an `Elsewhere`."""

    def post(self, post: Post) -> Reply:
        self.record(post, None)
        return Whole(307, "", {"Location": f"{self.elsewhere}{post.path}"})


class GivesUpOnSilence(HostedApi):
    """Prompts above half of the limit get nginx's 504, as with a proxy that does not wait for a long prefill."""

    def complete(self, dialect: Dialect, call: Call) -> Reply:
        sent = self.rendered(call.messages)
        if len(sent) > self.limit // 2 and not self.over_length(call, sent):
            call.prompt_tokens = len(sent)
            return page(504, "Gateway Time-out")
        return super().complete(dialect, call)


class ClosesLongStreams(HostedApi):
    """A stream of more than 32 answer tokens is closed after 32, without its end."""

    def events(self, dialect: Dialect, call: Call, number: str, answer: Answer, usage: Usage | None) -> Iterator[Event]:
        for count, event in enumerate(super().events(dialect, call, number, answer, usage)):
            if count > 32 and answer.tokens > 32:
                raise ConnectionResetError
            yield event


class SendsAfterDone(HostedApi):
    """Two more events follow the end of a stream."""

    def events(self, dialect: Dialect, call: Call, number: str, answer: Answer, usage: Usage | None) -> Iterator[Event]:
        events = list(super().events(dialect, call, number, answer, usage))
        yield from events
        yield from [event for event in events if event.data != "[DONE]"][1:3]
