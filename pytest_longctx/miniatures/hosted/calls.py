"""A parsed request of any dialect, and the server's answer to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_longctx.miniatures.hosted.tokens import Ids


class RequestError(Exception):
    """A request that is refused before its prompt is read. *param* is the invalid field, *status* the HTTP status."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt. The role "" is a plain prompt without a template."""

    role: str
    ids: Ids
    text: str


@dataclass(slots=True)
class Call:
    """A parsed request. *max_tokens* is None if the client set no maximum."""

    dialect: str
    model: Any
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    temperature: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    salt: str = ""
    """Separates the prefix caches of two callers, as vLLM's ``cache_salt``."""
    named: frozenset[str] = frozenset()
    """Fields that the request contains."""
    prompt_tokens: int | None = None
    """Tokens of the rendered prompt, after the server has counted them."""


@dataclass(slots=True)
class Answer:
    """
    A generated answer: the text that each token adds, the number of tokens, and the finish reason (``stop``,
    ``length``).
    """

    parts: list[str]
    tokens: int
    finish: str

    @property
    def text(self) -> str:
        """The whole text of the answer to a call."""
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. *cached* is None if the server does not report cached tokens."""

    prompt: int
    completion: int
    cached: int | None = None
    total: int | None = None
    """None: the sum."""


@dataclass(frozen=True, slots=True)
class Post:
    """An HTTP POST request as it arrives."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Whole:
    """A response with a body of known length: JSON, or *body* unchanged."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"


@dataclass(slots=True)
class Event:
    """
    One event of a stream: its name, if the dialect has names, and its data (JSON, or text unchanged). Without data, the
    event is a comment.
    """

    data: Any
    name: str | None = None


@dataclass(slots=True)
class Stream:
    """A response of server-sent events."""

    events: Iterator[Event]
    headers: dict[str, str] = field(default_factory=dict)
    buffered: bool = False
    """Whether the path holds back all events until the last."""


@dataclass(slots=True)
class Silence:
    """No response at all, until the client disconnects."""


Reply = Whole | Stream | Silence
