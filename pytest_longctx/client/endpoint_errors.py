"""
Answers that show that a question could not be asked: a wrong key, no such endpoint, a web page. Pure.

Nothing is learnt from them about what was to be judged, so they are errors of the set-up and never verdicts.
"""

import re
from dataclasses import dataclass
from typing import Final

from pytest_longctx.redaction import masked

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
