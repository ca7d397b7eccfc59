"""A server that answers: what every test is given, however it came up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.diagnosis.diagnose import Evidence


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
        return 0 if self.backend.names_cached_if_any and self.launcher != "url" else None

    @property
    def secure(self) -> bool:
        """Whether certificates matter; loading them for nothing would cost each plain request tens of milliseconds."""
        return self.url.startswith("https:")
