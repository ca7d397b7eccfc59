"""
Gateways in miniature: a proxy in front of any server, with the limits that proxies have.

Start one with ``python -m pytest_longctx.miniatures.hosted.gateway --upstream http://127.0.0.1:8000 --port 8001 --buffers``.
"""

import argparse
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from pytest_longctx.miniatures.hosted.calls import Event, Post, Reply, Stream, Whole
from pytest_longctx.miniatures.hosted.faults.path import page
from pytest_longctx.miniatures.hosted.latency import Latency
from pytest_longctx.miniatures.hosted.wire import Server

_FORWARDED: Final = ("authorization", "content-type", "accept")
_RETURNED: Final = ("retry-after", "x-request-id", "location")


@dataclass
class Gateway:
    """A proxy to *upstream* (a URL without a path). Without options it changes nothing."""

    upstream: str
    body_limit_bytes: int | None = None
    """A larger body gets status 413. nginx's default is 1 MiB."""
    buffers: bool = False
    """Whether a stream is passed on only after its end."""
    repeats: bool = False
    """Whether every request is sent twice, and the second answer passed on."""
    silence_s: float | None = None
    """
    Longest wait for the first byte of an answer, and between two bytes, in seconds; then status 504. nginx's default is
    60.
    """
    latency: Latency = field(default_factory=Latency)

    def get(self, post: Post) -> Reply:
        """Return the upstream server's reply to a GET request through the gateway."""
        return self._forwarded("GET", post)

    def post(self, post: Post) -> Reply:
        """Return the upstream server's reply to a POST request through the gateway."""
        if self.body_limit_bytes is not None and len(post.body) > self.body_limit_bytes:
            return page(413, "Request Entity Too Large")
        if self.repeats:
            first = self._forwarded("POST", post)
            if isinstance(first, Stream):
                for _ in first.events:
                    pass
        return self._forwarded("POST", post)

    def _forwarded(self, method: str, post: Post) -> Reply:
        address = urlsplit(self.upstream)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        upstream = kind(address.netloc, timeout=self.silence_s)
        headers = {name: post.headers[name] for name in _FORWARDED if name in post.headers}
        try:
            upstream.request(method, address.path + post.path, body=post.body or None, headers=headers)
            answer = upstream.getresponse()
            returned = {name: value for name in _RETURNED if (value := answer.getheader(name))}
            kind_of_answer = answer.getheader("content-type", "application/json")
            if kind_of_answer.startswith("text/event-stream"):
                return Stream(_events(upstream, answer), returned, self.buffers)
            whole = Whole(answer.status, answer.read(), returned, kind_of_answer)
        except TimeoutError:
            upstream.close()
            return page(504, "Gateway Time-out")
        except (OSError, http.client.HTTPException):
            upstream.close()
            return page(502, "Bad Gateway")
        upstream.close()
        return whole


def _events(upstream: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[Event]:
    """
    Yield the events of *answer* as they reach the gateway. Raises ConnectionResetError if the server closed the
    connection.
    """
    name: str | None = None
    try:
        while line := answer.readline():
            text = line.decode().rstrip("\r\n")
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: "):
                data = text.removeprefix("data: ")
                yield Event(data if data == "[DONE]" else json.loads(data), name)
                name = None
            elif text.startswith(": "):
                yield Event(None, text.removeprefix(": "))
    except (OSError, http.client.HTTPException) as broken:
        raise ConnectionResetError from broken
    finally:
        upstream.close()


def main() -> None:
    """Run one gateway: parse its command line and serve until terminated."""
    parser = argparse.ArgumentParser(prog="python -m pytest_longctx.miniatures.hosted.gateway", description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="URL")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--body-limit-bytes", type=int)
    parser.add_argument("--buffers", action="store_true", help="pass a stream on after its end")
    parser.add_argument("--repeats", action="store_true", help="send every request twice")
    parser.add_argument("--silence-s", type=float, help="longest wait for the server's next byte")
    given = parser.parse_args()
    gateway = Gateway(given.upstream, given.body_limit_bytes, given.buffers, given.repeats, given.silence_s)
    with Server((given.host, given.port), gateway) as server:
        print(f"INFO:     gateway to {given.upstream} at {server.url}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            gateway.latency.stopped.set()


if __name__ == "__main__":
    main()
