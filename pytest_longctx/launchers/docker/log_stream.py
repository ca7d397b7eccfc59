"""The log of a container as the Docker engine streams it: in frames, whose header has the stream and the length."""

from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Final

from pytest_longctx.launchers.docker.container_cleanup import Engine

_HEAD_BYTES: Final = 8
_PIECE_BYTES: Final = 64 * 1024
"""Largest piece of a frame to read. The engine may name any frame length."""
_SAID_BYTES: Final = 300


def follow(path: str, container: str) -> Iterator[bytes]:
    """
    Yield the log of *container* from its start, as the log grows, from the Docker engine at the socket *path*.

    Raises ConnectionError if the engine does not answer with a log.
    """
    engine = Engine(path, timeout_s=None)
    try:
        engine.request("GET", f"/containers/{container}/logs?follow=1&stdout=1&stderr=1")
        with engine.getresponse() as answer:
            if answer.status != 200:
                said = answer.read(_SAID_BYTES).decode("utf-8", "replace")
                raise ConnectionError(f"the log could not be read: HTTP {answer.status}: {said}")
            while len(head := _head(answer)) == _HEAD_BYTES:
                left = int.from_bytes(head[4:])
                while left and (piece := answer.read1(min(left, _PIECE_BYTES))):
                    yield piece
                    left -= len(piece)
    except HTTPException as problem:
        raise ConnectionError(f"the stream of the log broke: {type(problem).__name__}: {problem}") from None
    finally:
        engine.close()


def _head(answer: HTTPResponse) -> bytes:
    head = b""
    while len(head) < _HEAD_BYTES and (more := answer.read1(_HEAD_BYTES - len(head))):
        head += more
    return head
