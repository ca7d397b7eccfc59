"""
HTTP clients that limit the answer of a server: bytes and total time of a page, bytes of an error body.

httpx limits neither: its read timeout starts again with each byte, and it decompresses a body before its size is known.
All text of a server comes from an unknown sender. A page above a limit is an error that names the page, the limit and
the size or time.
"""

import asyncio
import errno
import json
import math
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from threading import Timer
from types import TracebackType
from typing import Any, Final, Self

import httpx

from pytest_longctx import toml
from pytest_longctx.errors import LaunchError

PAGE_BYTES: Final = 16 * 2**20
"""Decoded bytes of one page. A metrics page of vLLM has about 0.2 MB, a model list of a gateway less than 1 MB."""
ERROR_BYTES: Final = 64 * 2**10
"""Most decoded bytes read of an error body."""
ERROR_S: Final = 10.0
"""Most time for an error body to arrive. The part that has arrived by then is used."""
_PIECE_BYTES: Final = 64 * 2**10
_UPLOAD_BYTES_PER_S: Final = 100_000
"""Slowest upload for which the total time of a request is extended."""
_DIGITS: Final = 19
"""Digits of a 64-bit integer. Python refuses to parse more than 4,300, and a float holds at most 308."""
_OWN: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors of the operating system that mean: this process or machine has run out of a resource."""
_LARGEST: Final = 2**53
"""Largest count. Above it, a double is not exact."""


class OversizedAnswer(httpx.HTTPError):
    """An answer has more decoded bytes than allowed."""


class SlowAnswer(httpx.ReadTimeout):
    """An answer was not complete within its total time, although bytes arrived."""


def json_of(text: str | bytes) -> Any:
    """
    Parse JSON of a server. Raises `ValueError` for all wrong input.

    That includes input for which `json.loads` succeeds or raises something else: NaN, infinities, integers of more than
    19 digits, and nesting that is too deep.
    """
    try:
        found = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    toml.refuse_deep(found)
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        raise ValueError(f"JSON has an integer of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"JSON has a number that is not finite: {text[:20]}")
    return value


def own_trouble(problem: BaseException | None) -> str:
    """
    Explain how *problem* comes from this process (no memory, file descriptors or threads left); else empty. It says
    nothing about a server.
    """
    seen: set[int] = set()
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        if isinstance(problem, MemoryError):
            return "this process has no memory left"
        if isinstance(problem, OSError) and problem.errno in _OWN:
            return f"this process cannot open a connection: {problem.strerror}"
        if isinstance(problem, RuntimeError) and "start new thread" in str(problem):
            return "this process can start no thread"
        problem = problem.__cause__ or problem.__context__
    return ""


def own_error(problem: BaseException, where: str) -> LaunchError | None:
    """
    Return the package's error for a shortage in this process at *where*, an address; None if *problem* has another
    cause.
    """
    why = own_trouble(problem)
    remedy = (
        "more descriptors (ulimit -n), memory or threads for this process, or fewer requests at once (ask.concurrency)"
    )
    return LaunchError(f"{where} could not be asked: {why}\n  try      {remedy}") if why else None


def count_of(value: object) -> int | None:
    """Return *value* if it is a count, an integer from 0 to 2^53; else None, which means not observed."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _LARGEST else None


def figure_of(value: float | None) -> float | None:
    """Return *value* if it can be a counter or a gauge: finite and from 0 to 2^53; else None."""
    return value if value is not None and 0 <= value <= _LARGEST else None


class _Decoder:
    """Decodes a body in pieces. A compressed body cannot use more memory than one piece."""

    def __init__(self, headers: httpx.Headers) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower() or "identity"
        if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise httpx.DecodingError(f"content encoding {encoding[:40]!r}, although identity was requested")
        self._inflate = (
            None
            if encoding == "identity"
            else zlib.decompressobj(zlib.MAX_WBITS + (0 if encoding == "deflate" else 16))
        )

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            yield raw
            return
        try:
            while raw and not self._inflate.eof:
                if piece := self._inflate.decompress(raw, _PIECE_BYTES):
                    yield piece
                raw = self._inflate.unconsumed_tail
        except zlib.error as problem:
            raise httpx.DecodingError(f"the body cannot be decoded by its content encoding: {problem}") from None


class _Body:
    """The body of one answer, up to its limit."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._decoder = response, _Decoder(response.headers)
        self._taken = bytearray()
        self._cut = response.status_code != 200
        self._most = ERROR_BYTES if self._cut else PAGE_BYTES

    def full(self, raw: bytes) -> bool:
        """Add *raw*. Return True if the body is complete. Raises `OversizedAnswer`."""
        for piece in self._decoder.pieces(raw):
            self._taken += piece
            if len(self._taken) > self._most:
                if self._cut:
                    return True
                request = self._response.request
                raise OversizedAnswer(
                    f"{request.method} {request.url.path}: the answer is larger than {self._most / 2**20:.0f} MiB (decoded), "
                    "the limit for a page"
                )
        return False

    def response(self) -> httpx.Response:
        """
        Return the answer with its whole body. Its text is always UTF-8, because a server's charset could name any codec
        of Python.
        """
        coded = ("content-encoding", "content-length", "transfer-encoding")
        seen = self._response
        headers = [(name, value) for name, value in seen.headers.multi_items() if name.lower() not in coded]
        body = bytes(self._taken[: self._most])
        made = httpx.Response(seen.status_code, headers=headers, content=body, request=seen.request)
        made.encoding = "utf-8"
        return made


class Deadline:
    """
    Shuts down the connection of one blocking request when its total time is over.

    A reader of a stream may `extend` the time after each part, at most to *most_s* after the start.
    """

    def __init__(self, total_s: float | None, most_s: float | None = None) -> None:
        self.total_s, self.passed = total_s, False
        self._streams: list[Any] = []
        began_s = time.monotonic()
        self._ends_s = began_s + (total_s or 0.0)
        self._last_s = began_s + (most_s or total_s or 0.0)
        self._timer: Timer | None = None
        self._over = False

    def __enter__(self) -> Self:
        if self.total_s is not None:
            self._wait(self.total_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._streams.clear()

    def extend(self) -> None:
        """Restart the time of the answer, because a part of it has arrived."""
        if self.total_s is not None:
            self._ends_s = min(time.monotonic() + self.total_s, self._last_s)

    def trace(self, event: str, about: Mapping[str, Any]) -> None:
        """Store the connection of a request with a total time limit. httpcore calls this at each of its steps."""
        if event == "connection.connect_tcp.complete":
            self._streams.append(about["return_value"])

    def end(self) -> None:
        """Shut down the connection, because the request's total time is over."""
        self.passed = True
        for stream in self._streams:
            with suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def error(self, request: httpx.Request) -> SlowAnswer:
        return _slow(request, self.total_s)

    def _wait(self, wait_s: float) -> None:
        self._timer = Timer(wait_s, self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            self.end()
        elif not self._over:
            self._wait(left_s)


def _slow(request: httpx.Request, total_s: float | None) -> SlowAnswer:
    limit = "" if total_s is None else f" within {total_s:.3g} s, the limit for the whole answer"
    return SlowAnswer(f"{request.method} {request.url.path}: the answer was not complete{limit}", request=request)


def _total_s(request: httpx.Request) -> float | None:
    """Total time of *request*: its read timeout, longer for a large upload; None if it has no timeout."""
    read_s = request.extensions.get("timeout", {}).get("read")
    size = int(request.headers.get("content-length", 0))
    return None if read_s is None else float(read_s) + upload_s(size)


def upload_s(size_bytes: int) -> float:
    """Extra time for an answer whose request has a body of *size_bytes*."""
    return size_bytes / _UPLOAD_BYTES_PER_S


_HEADERS: Final = {"Accept-Encoding": "identity"}
_NO_REUSE: Final = httpx.Limits(max_keepalive_connections=0)
"""Opens a connection for each blocking request, so that its deadline can shut it down."""


class PageClient(httpx.Client):
    """Blocking client for short requests. The read timeout limits the whole answer, and `PAGE_BYTES` limits its size."""

    def __init__(self, **settings: Any) -> None:
        settings["headers"] = {**_HEADERS, **settings.get("headers", {})}
        super().__init__(limits=_NO_REUSE, **settings)
        self._current: Deadline | None = None

    def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """
        Send *request* and read its answer within the limits.

        Raises `OversizedAnswer`, `SlowAnswer` or `httpx.HTTPError`.
        """
        if stream:
            return super().send(request, stream=True, **more)
        with Deadline(_total_s(request)) as deadline:
            self._current = deadline
            request.extensions = {**request.extensions, "trace": deadline.trace}
            try:
                answer = self._within(request, **more)
            except httpx.TransportError:
                if deadline.passed:
                    raise deadline.error(request) from None
                raise
            if deadline.passed:  # a body without a length ends like this too
                raise deadline.error(request)
            return answer

    def abort(self) -> None:
        """End the request in flight from another thread. The request raises `SlowAnswer`."""
        if self._current is not None:
            self._current.end()

    def _within(self, request: httpx.Request, **more: Any) -> httpx.Response:
        response = super().send(request, stream=True, **more)
        try:
            body = _Body(response)
            for raw in response.iter_raw():
                if body.full(raw):
                    break
            return body.response()
        finally:
            response.close()


class AsyncPageClient(httpx.AsyncClient):
    """Asynchronous client for short requests. The reader of a streamed answer limits the answer."""

    def __init__(self, **settings: Any) -> None:
        settings["headers"] = {**_HEADERS, **settings.get("headers", {})}
        super().__init__(**settings)

    async def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """
        Send *request* and read its answer within the limits.

        Raises `OversizedAnswer`, `SlowAnswer` or `httpx.HTTPError`.
        """
        if stream:
            return await super().send(request, stream=True, **more)
        total_s = _total_s(request)
        try:
            async with asyncio.timeout(total_s):
                response = await super().send(request, stream=True, **more)
                try:
                    body = _Body(response)
                    async for raw in response.aiter_raw():
                        if body.full(raw):
                            break
                    return body.response()
                finally:
                    await response.aclose()
        except TimeoutError:
            raise _slow(request, total_s) from None


async def error_text(response: httpx.Response) -> str:
    """Return the body of a streamed *response* that is not an event stream: at most `ERROR_BYTES`, for at most `ERROR_S`."""
    taken, decoder = bytearray(), _Decoder(response.headers)
    with suppress(TimeoutError):
        async with asyncio.timeout(ERROR_S):
            async for raw in response.aiter_raw():
                for piece in decoder.pieces(raw):
                    taken += piece
                if len(taken) > ERROR_BYTES:
                    break
    return bytes(taken[:ERROR_BYTES]).decode("utf-8", "replace")


def decoder(response: httpx.Response) -> _Decoder:
    """Return a decoder for the body of *response*. Raises `httpx.DecodingError` for an encoding that was not requested."""
    return _Decoder(response.headers)
