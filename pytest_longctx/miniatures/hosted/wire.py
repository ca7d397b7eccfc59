"""HTTP server of a miniature: one thread for each connection, whole answers, server-sent events, and silence."""

import json
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Protocol

from pytest_longctx.miniatures.hosted.calls import Event, Post, Reply, Silence, Stream, Whole
from pytest_longctx.miniatures.hosted.latency import Latency


class Answering(Protocol):
    """Protocol of a served object: `HostedApi`, or a gateway."""

    @property
    def latency(self) -> Latency:
        """Delays of the served miniature. The flag in it ends all delays."""

    def get(self, post: Post) -> Reply:
        """Return the reply to an HTTP GET request."""

    def post(self, post: Post) -> Reply:
        """Return the reply to an HTTP POST request."""


def frame(event: Event) -> bytes:
    """Return the bytes of *event* as a server-sent event over HTTP."""
    if event.data is None:
        return f": {event.name}\n\n".encode()
    name = f"event: {event.name}\n" if event.name else ""
    data = event.data if isinstance(event.data, str) else json.dumps(event.data)
    return f"{name}data: {data}\n\n".encode()


class Connection(BaseHTTPRequestHandler):
    """One HTTP connection to a miniature."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise delayed acknowledgement adds 40 ms to every answer
    server: "Server"

    def do_GET(self) -> None:
        """Send the miniature's reply to a GET over the HTTP connection."""
        self._reply(self.server.api.get(Post(self.path, self._headers(), b"")))

    def do_POST(self) -> None:
        """Send the miniature's reply to a POST over the HTTP connection."""
        length = self.headers.get("Content-Length")
        if length is None or not length.isdecimal():
            self.close_connection = True
            self._whole(Whole(411, {"error": {"message": "Content-Length is required."}}))
            return
        body = self.rfile.read(int(length))
        try:
            self._reply(self.server.api.post(Post(self.path, self._headers(), body)))
        except ConnectionError:
            self.close_connection = True

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _reply(self, reply: Reply) -> None:
        match reply:
            case Whole():
                self._whole(reply)
            case Stream():
                self._stream(reply)
            case Silence():
                self._silence()

    def _whole(self, reply: Whole) -> None:
        body = reply.body
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": reply.kind, "Content-Length": str(len(data)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, reply: Stream) -> None:
        self.send_response(200)
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        for name, value in {**headers, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        frames = (frame(event) for event in reply.events)
        for data in (b"".join(frames),) if reply.buffered else frames:
            self._chunk(data)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _silence(self) -> None:
        """Send nothing until the client disconnects. The socket is then readable and returns no data."""
        self.close_connection = True
        while not self.server.api.latency.stopped.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.2)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log line for each HTTP request."""


class Server(ThreadingHTTPServer):
    """The HTTP server of one miniature, which prints no traceback if a client disconnects."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], api: Answering) -> None:
        self.api = api
        super().__init__(address, Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of HTTP connections that were broken on purpose."""

    @property
    def url(self) -> str:
        """URL of the HTTP server without a path."""
        return f"http://{self.server_address[0]!s}:{self.server_port}"


@contextmanager
def serving(api: Answering, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve the miniature *api* over HTTP in a thread, and yield its URL. Port 0 selects a free port."""
    server = Server((host, port), api)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        api.latency.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
