"""A request as a miniature sees it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Final

SMALL_TALK_TOKENS: Final = 16
"""Faults spare prompts shorter than this, so that a server with a fault still looks ready."""


@dataclass(slots=True)
class Request:
    """A completion request, its prompt reduced to what a server without a model needs."""

    tokens: int
    digest: str
    max_tokens: int
    stream: bool

    @classmethod
    def parse(cls, body: bytes) -> "Request":
        """Take the ids out of *body* before it is parsed: ten million of them must not become Python integers."""
        start = body.index(b"[", body.index(b'"prompt"')) + 1
        end = body.index(b"]", start)
        rest = json.loads(body[:start] + body[end:])
        digest = hashlib.sha256(memoryview(body)[start:end])
        digest.update(rest.get("cache_salt", "").encode())
        count = body.count(b",", start, end) + 1
        return cls(count, digest.hexdigest(), rest.get("max_tokens", 16), bool(rest.get("stream")))


def spared(request: Request) -> bool:
    """Whether *request* is too small to be treated badly."""
    return request.tokens < SMALL_TALK_TOKENS
