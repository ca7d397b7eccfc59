"""A running server as a value, and the lock that lets one process at a time measure it."""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.redaction import masked


def not_seen(wait_s: float) -> Evidence | None:  # noqa: ARG001 - there is nothing to wait for
    """Nobody watches how the server ends."""
    return None


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """A server that answers."""

    url: str
    model: str
    """What it calls its model."""
    backend: Backend
    deployment: Deployment
    launcher: str
    """What started it, or attached to it, by name."""
    version: str | None = None
    max_model_len: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    """Readings of the boot, under their names in `pytest_longctx.measures`."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Readings of the boot that are words: KV-cache dtype, attention backend."""
    log: Path | None = None
    local: bool = True
    """On this machine's loopback: no proxy lies between."""
    attached: bool = False
    """Started before this run and not by it: what is known of it is what it tells."""
    salt: str = ""
    """Sent with each request, so that no earlier run's prompts are found in its prefix cache; empty: nothing is sent."""
    hidden: tuple[str, ...] = ()
    """What of its environment and command line must not be shown; its log may have it."""
    ended: Callable[[float], Evidence | None] = not_seen
    """
    How it ended, if it does so within so many seconds; None while it runs, or where nobody sees. Raises `LaunchError` where what
    it ran in has gone, for which no finding is to blame.
    """

    def __repr__(self) -> str:
        """Short, for pytest shows it above each test that fails; no headers, which have the key."""
        return f"<Server {self.deployment.name} at {self.url}>"

    @property
    def body(self) -> dict[str, object]:
        """What each completion request carries beside its prompt, however it is sent."""
        return {**self.backend.body, **({"cache_salt": self.salt} if self.salt else {})}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown; a server may echo the headers in its complaints, and its log anything."""
        words = tuple(word for value in self.headers.values() for word in value.split()[-1:] if len(word) > 3)
        return (*words, *self.hidden)

    @property
    def silently_cached(self) -> int | None:
        """What it means that a usage record names no cached tokens: none of them, or nothing."""
        return 0 if self.backend.names_cached_if_any and not self.attached else None

    @property
    def secure(self) -> bool:
        """Whether certificates matter; loading them for nothing would cost each plain request tens of milliseconds."""
        return self.url.startswith("https:")


@contextmanager
def exclusive(url: str) -> Iterator[None]:
    """
    Wait until nobody else of this user measures the server at *url*, and keep others waiting meanwhile.

    Workers of one run that share a server take turns by this; the kernel gives the turn back if one of them dies.
    """
    folder = Path(tempfile.gettempdir()) / f"pytest-longctx-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


KEY_VARIABLE: Final = "LONGCTX_API_KEY"
"""Where the API key of an attached server is read from; a key on a command line would show in every process list."""

_IDLE: Final = (
    "gave the request up, which was silent for too long",
    "a longer idle limit there (nginx: proxy_read_timeout 1h)",
)
_GATEWAY: Final = {
    408: _IDLE,
    413: ("does not take a request of this size", "a larger body limit there (nginx: client_max_body_size 0)"),
    502: ("answers, and does not reach the server behind it", "whether that server runs"),
    504: _IDLE,
    524: _IDLE,
}
"""Statuses that no engine sends and that things between client and server do, what they say, and what to do there."""
_QUOTA: Final = (402, 429)
_NO_ENDPOINT: Final = (404, 405, 410, 501)
_FORM: Final = (406, 407, 411, 415, 421, 426)
_BASE_URL: Final = "the base URL of an OpenAI-compatible server, up to and without /v1; --backend names its kind"
_STREAM: Final = "a server that streams what it is asked to stream, without a proxy that gathers it"


@dataclass(frozen=True, slots=True)
class Unaskable:
    """Why a question could not be asked, and what to do."""

    asked: str
    answered: str
    because: str
    remedy: str

    def __str__(self) -> str:
        return "\n".join(
            (
                f"the question could not be asked: {self.because}",
                f"  asked    {self.asked}",
                f"  answered {self.answered}",
                f"  try      {self.remedy}",
            )
        )

    @property
    def line(self) -> str:
        """The same in one line."""
        return f"{self.because} ({self.asked} was answered {self.answered})"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to what, as far as it matters here."""

    asked: str
    """Method and path."""
    status: int
    text: str
    kind: str = ""
    """The content type."""
    location: str = ""
    streamed: bool = False
    """Whether it was to be a stream of events."""

    @property
    def is_page(self) -> bool:
        """Whether it is a web page, which no engine answers."""
        return (
            "text/html" in self.kind or re.match(r"\s*<(?:!doctype html|html)\b", self.text, re.IGNORECASE) is not None
        )

    def shown(self, secrets: tuple[str, ...] = ()) -> str:
        """Status and words, cut to a readable length."""
        return f"HTTP {self.status} {masked(' '.join(self.text.split()), secrets)[:200]}".strip()


def unaskable(
    answer: Answer, *, local: bool, attached: bool, keyed: bool, secrets: tuple[str, ...] = ()
) -> Unaskable | None:
    """
    Why *answer* is none to the question; None where it may be one.

    *local*: nothing lies between; *attached*: the server is somebody else's; *keyed*: a key was sent.
    """
    found = _reason(answer, local=local, attached=attached, keyed=keyed)
    return Unaskable(answer.asked, answer.shown(secrets), *found) if found else None


def _reason(answer: Answer, *, local: bool, attached: bool, keyed: bool) -> tuple[str, str] | None:
    """What is wrong, and what to do; the first that fits."""
    status = answer.status
    what, remedy = _GATEWAY.get(status, ("", ""))
    kind = answer.kind or "something of no declared type"
    moved = f"it sends its clients elsewhere, to {answer.location or 'no address'}"
    page = "a web page came: what answers there is a web server, a login or a gateway, and no engine"
    quota = "it counts its clients' requests, and has had enough of ours"
    reasons = (
        (status in (401, 403), *_locked(attached=attached, keyed=keyed)),
        (300 <= status < 400, moved, f"that address; {_BASE_URL}"),
        (
            bool(what) and not local,
            f"something between client and server {what}",
            f"{remedy}, or the server's own address",
        ),
        (answer.is_page, page, _BASE_URL),
        (status == 200 and answer.streamed, f"no stream of events came, but {kind}", _STREAM),
        (status in _NO_ENDPOINT, f"it has no {answer.asked.partition(' ')[2]}, or not for this model", _BASE_URL),
        (status in _QUOTA, quota, "a key with a larger quota, or the server's own address"),
        (status in _FORM, "it, or a proxy before it, does not take requests of this form", _BASE_URL),
    )
    return next(((because, do) for applies, because, do in reasons if applies), None)


def _locked(*, attached: bool, keyed: bool) -> tuple[str, str]:
    if not attached:
        return (
            "it asks for an API key that this run did not set",
            "no key flag or key variable in the deployment: a launcher sets its own",
        )
    if keyed:
        return (
            f"it does not take the key that was sent, that of {KEY_VARIABLE} or of the address",
            f"the right key in {KEY_VARIABLE}",
        )
    return "it asks for an API key, and none was sent", f"its key in the environment variable {KEY_VARIABLE}"
