"""A running server as a value, and the lock that lets only one process at a time measure the server."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.processes import locks
from pytest_longctx.processes.progress import ProgressCallback, no_progress
from pytest_longctx.redaction import shown


def not_seen(wait_s: float) -> Evidence | None:  # noqa: ARG001 - there is nothing to wait for
    """Return None: the default evidence for a server whose exit is not observed."""
    return None


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """A running server that answers requests."""

    url: str
    model: str
    """The name by which the server knows its model."""
    backend: Backend
    deployment: Deployment
    launcher: str
    """Name of the launcher that started the server or attached to it."""
    version: str | None = None
    max_model_len: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numeric readings of the boot, under their names in `pytest_longctx.measures`."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Textual readings of the boot: KV-cache dtype, attention backend."""
    log: Path | None = None
    local: bool = True
    """Whether the server is on this machine's loopback, without a proxy in between."""
    attached: bool = False
    """Whether another run started the server, so that only its own reports are known."""
    salt: str = ""
    """Cache salt sent with each request, so that the prefix cache has no prompts of earlier runs; empty if not sent."""
    stops: bool = False
    """Whether the model ends its answers itself. Otherwise, all requested tokens are generated."""
    hidden: tuple[str, ...] = ()
    """Secrets of the server's environment and command line, which its log may repeat."""
    ended: Callable[[float], Evidence | None] = not_seen
    """
    Function that returns how the server ended; None if it still runs after the given seconds, or if its end is not
    observed.

    Raises `LaunchError` if its container or Pod has disappeared, which is no fault of the server.
    """
    halted: Callable[[], tuple[str, ...]] = tuple
    """
    Function that returns a line for each process of the server that a signal has stopped; empty if they cannot be
    observed.
    """

    def __repr__(self) -> str:
        """
        Return a short form, because pytest prints a server above each failed test. The headers, which contain the key,
        are omitted.
        """
        return f"<Server {self.deployment.name} at {self.url}>"

    @property
    def body(self) -> dict[str, object]:
        """Fields of every completion request besides its prompt."""
        stops = {"ignore_eos": False} if self.stops and "ignore_eos" in self.backend.body else {}
        return {**self.backend.body, **stops, **({"cache_salt": self.salt} if self.salt else {})}

    @property
    def secrets(self) -> tuple[str, ...]:
        """Strings to mask. A server may repeat request headers in its errors, and anything in its log."""
        tokens = tuple(word for value in self.headers.values() for word in value.split()[-1:] if len(word) > 3)
        return (*tokens, *self.hidden)

    @property
    def silently_cached(self) -> int | None:
        """The number of cached tokens to assume if usage reports none: 0, or None if unknown."""
        return 0 if self.backend.names_cached_if_any and not self.attached else None

    @property
    def receives_kv(self) -> bool:
        """Whether a prefill role computes the KV cache of a request for this server. A received KV cache is no cache hit."""
        return self.backend.receives_kv(self.deployment)

    @property
    def secure(self) -> bool:
        """Whether the server's URL needs certificates, which take each HTTP client tens of milliseconds to load."""
        return self.url.startswith("https:")


@contextmanager
def exclusive(url: str, watch: ProgressCallback = no_progress) -> Iterator[None]:
    """
    Hold the lock of the server at *url*, after waiting until no other process of this user measures the server.

    Workers of one run that share a server take turns. The kernel releases the lock if one of them dies. Raises
    `LaunchError` if the lock cannot be trusted, or if its holder is stopped.
    """
    with locks.held(f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.turn", f"the server at {url}", watch):
        yield


KEY_VARIABLE: Final = "LONGCTX_API_KEY"
"""
Environment variable with the API key of an attached server. A key on the command line would show in process lists.
"""

_IDLE: Final = (
    "closed the request after too long a silence",
    "a longer idle limit there (nginx: proxy_read_timeout 1h)",
)
_GATEWAY: Final = {
    408: _IDLE,
    413: ("rejects requests of this size", "a larger body limit there (nginx: client_max_body_size 0)"),
    502: ("answers, but cannot reach the server behind it", "restarting the server behind it"),
    504: _IDLE,
    524: _IDLE,
}
"""HTTP statuses that proxies send and engines do not, with their meaning and the remedy."""
_QUOTA: Final = (402, 429)
_NO_ENDPOINT: Final = (404, 405, 410, 501)
_FORM: Final = (406, 407, 411, 415, 421, 426)
_BASE_URL: Final = "the base URL of an OpenAI-compatible server, without /v1; --backend names its kind"
_STREAM: Final = "a server that streams its answers, without a buffering proxy in between"


@dataclass(frozen=True, slots=True)
class Unaskable:
    """The reason why a request did not reach an engine, and the remedy."""

    asked: str
    answered: str
    because: str
    remedy: str

    def __str__(self) -> str:
        return "\n".join(
            (
                f"the request did not reach an engine: {self.because}",
                f"  asked    {self.asked}",
                f"  answered {self.answered}",
                f"  try      {self.remedy}",
            )
        )

    @property
    def line(self) -> str:
        """The reason in one line."""
        return f"{self.because} ({self.asked} was answered {self.answered})"


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of an HTTP response that show whether it comes from an engine."""

    asked: str
    """Method and path of the request."""
    status: int
    text: str
    kind: str = ""
    """The content type."""
    location: str = ""
    streamed: bool = False
    """Whether an event stream was requested."""

    @property
    def is_page(self) -> bool:
        """Whether this response is an HTML page, which no engine returns."""
        return (
            "text/html" in self.kind or re.match(r"\s*<(?:!doctype html|html)\b", self.text, re.IGNORECASE) is not None
        )

    def shown(self, secrets: tuple[str, ...] = ()) -> str:
        """Return the status and the text of the response, shortened, with *secrets* masked."""
        return f"HTTP {self.status} {shown(' '.join(self.text.split()), secrets)[:200]}".strip()


def unaskable(
    answer: Answer, *, local: bool, attached: bool, keyed: bool, secrets: tuple[str, ...] = ()
) -> Unaskable | None:
    """
    Explain why *answer* does not come from an engine; None if it may.

    *local*: there is no proxy in between. *attached*: this run did not launch the server. *keyed*: the request had an
    API key.
    """
    found = _reason(answer, local=local, attached=attached, keyed=keyed)
    return Unaskable(answer.asked, answer.shown(secrets), *found) if found else None


def _reason(answer: Answer, *, local: bool, attached: bool, keyed: bool) -> tuple[str, str] | None:
    """Return the first reason that matches *answer*, and its remedy; None if no reason matches."""
    status = answer.status
    what, remedy = _GATEWAY.get(status, ("", ""))
    kind = shown(answer.kind)[:100] or "a body without a content type"
    moved = f"it redirects to {shown(answer.location)[:200] or 'no address'}"
    page = "it returned a web page: the address is a web server, a login page or a gateway, not an engine"
    quota = "the server is rate-limited, and the quota is used up"
    reasons = (
        (status in (401, 403), *_locked(attached=attached, keyed=keyed)),
        (300 <= status < 400, moved, f"that address, or {_BASE_URL}"),
        (
            bool(what) and not local,
            f"something between client and server {what}",
            f"{remedy}, or the server's own address",
        ),
        (answer.is_page, page, _BASE_URL),
        (status == 200 and answer.streamed, f"it returned {kind} instead of an event stream", _STREAM),
        (
            status in _NO_ENDPOINT,
            f"it has no {answer.asked.partition(' ')[2]}, or the server does not have this model",
            f"{_BASE_URL};\n           for an API of chat alone: longctx certify URL, or pytest -m certificate",
        ),
        (status in _QUOTA, quota, "a key with a larger quota, or the server's own address"),
        (status in _FORM, "it, or a proxy before it, rejects the form of this request", _BASE_URL),
    )
    return next(((because, do) for applies, because, do in reasons if applies), None)


def _locked(*, attached: bool, keyed: bool) -> tuple[str, str]:
    if not attached:
        return (
            "it requires an API key that this run did not set",
            "remove the key flag or key variable from the deployment: the launcher sets its own key",
        )
    if keyed:
        return (
            f"it rejects the API key that was sent, from {KEY_VARIABLE} or the URL",
            f"the right key in {KEY_VARIABLE}",
        )
    return "it requires an API key, and none was sent", f"its key in the environment variable {KEY_VARIABLE}"
